"""Frozen definitions: how vectors become codes and codes become scores, and the values that pass between rooms."""
