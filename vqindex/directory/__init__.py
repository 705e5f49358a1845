"""Directories: where the files of an index live, as commits and saves see them."""
