"""What an index holds: rows of codes, ids and originals, and which of them a search may return."""
