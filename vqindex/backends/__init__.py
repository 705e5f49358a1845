"""Backends. Each encodes and scans for one codec; all give the reference's bytes, scores and order."""
