"""Directories: where the files of a store lie. `protocol.Directory` is the seam, `local.LocalDirectory` a folder."""
