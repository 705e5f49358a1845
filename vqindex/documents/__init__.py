"""Documents: texts, metadata and vectors that are always those of one moment.

>>> import numpy as np
>>> from vqindex import documents
>>> store = documents.open(":memory:")
>>> store.add(["a cat", "a dog"], np.eye(2), ids=["cat", "dog"])
['cat', 'dog']
>>> store.search(np.array([1.0, 0.0]), k=1)[0].text
'a cat'
"""

from .document import Document, Hit
from .documents import Documents
from .entry import open_documents as open

__all__ = ["Document", "Documents", "Hit", "open"]
