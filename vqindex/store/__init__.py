"""A durable index: immutable ``.vqi`` segments in a folder, and a manifest that is replaced atomically.

The design is that of log-structured stores such as Lucene and LevelDB. A commit writes new vectors as a new segment and
removed ones as a file of bits. It then replaces the manifest, the list of files, in one atomic step. Readers follow the
manifest and take no lock. FORMAT.md describes the files.

* ``opening.py``: `vqindex.open`.
* ``durable.py``: `DurableIndex`, what users hold.
* ``commit.py``: what a commit writes. ``merge.py`` chooses segments to merge.
* ``snapshot.py``: reading a commit while a writer replaces files.
* ``buckets.py``: `vqindex.open` for URLs. ``sharing.py``, ``rebase.py``: several writers of a bucket. ``transfer.py``:
  an index is copied from a folder to a bucket and back. ``copies.py``: copies of files are checked.
* ``manifest.py``, ``removed.py``: the two kinds of files that are not ``.vqi`` files.
"""

from .durable import DurableIndex
from .opening import discard_store, open_store
from .snapshot import verify_store

__all__ = ["DurableIndex", "discard_store", "open_store", "verify_store"]
