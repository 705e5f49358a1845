"""Frozen definitions of codes and scores, and the values that pass between the rooms."""
