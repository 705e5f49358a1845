"""Search: from a caller's queries to results, over any list of segments."""
