"""The measuring harness: indexes side by side in one process, what they are compared by, and how results are drawn."""
