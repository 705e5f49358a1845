"""Limits of what a request may ask for."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """What a server refuses to exceed.

    Attributes
    ----------
    body : int
        Bytes of a request's body.
    bodies : int
        Bytes of all bodies that are held at a time, in multiples of `body`.
    k : int
        Results of a query.
    queries : int
        Queries of a request.
    shortlist : int
        Length of the list that is re-ranked, oversample * k, and the effort of a walk.
    requests : int
        Searches that are read, wait or run at a time.
    seconds : float
        Time from a whole request to its answer.
    read_seconds : float
        Time to send the head of a request, and as much for its body.
    batch : int
        Queries that are searched by one scan; 1 searches each request apart.
    """

    body: int = 2**25
    bodies: int = 4
    k: int = 1000
    queries: int = 1000
    shortlist: int = 20_000
    requests: int = 256
    seconds: float = 30.0
    read_seconds: float = 10.0
    batch: int = 64
