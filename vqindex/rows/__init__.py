"""The contents of an index: codes, ids and originals in rows, and the rows that a search may return."""
