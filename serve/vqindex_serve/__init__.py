"""Serving an index by HTTP: ``vqindex serve``, and the ASGI app behind it. Needs `pip install vqindex[serve]`.

The parts, in the order in which a request meets them:

    server.py     uvicorn: the socket, slow requests, the end
    gate.py       who may come in, how many at a time, and what is counted
    app.py        the paths
    body.py       reading a body within limits
    calls.py      what a request asks for
    batching.py   one scan for the searches that wait
    answers.py    results as JSON or raw bytes

``source.py`` opens the index and notices its next commit; ``limits.py``, ``errors.py``, ``metrics.py`` and
``openapi.py`` are used by all of them.
"""

from .limits import Limits

__all__ = ["Limits"]
