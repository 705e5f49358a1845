"""vqindex inside the tools people already use. Each module needs its own extra; importing this one needs none.

``sklearn`` (scikit-learn), ``langchain``, ``llama_index`` and ``haystack``; ``docstore`` is what the last three share.
"""
