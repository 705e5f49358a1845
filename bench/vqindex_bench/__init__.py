"""The benchmark harness: it measures indexes side by side in one process, compares them and draws the results."""
