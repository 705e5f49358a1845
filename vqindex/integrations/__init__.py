"""Integrations of vqindex with other libraries. Each module needs its own extra; importing this one needs none.

The modules are ``sklearn`` (scikit-learn), ``langchain``, ``llama_index`` and ``haystack``. The last three are adapters
of `vqindex.documents`.
"""
