"""Backends: each encodes and scans for one codec, and all of them give the reference's bytes, scores and order."""
