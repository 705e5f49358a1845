"""What a commit writes into the manifest of a bucket for other writers, and for readers of older manifests.

A file that a commit no longer names is retired: it stays for `GRACE` seconds, for readers that have opened an older
manifest and have not fetched all files. The time counts from the publishing of the first manifest without the file. The
bucket's own clock tells it: when that manifest is read or listed the next time, its time is known, and the next commit
writes it down. Until then it is null, and the file stays.
"""

from __future__ import annotations

from ..directory.objects import GRACE
from ..directory.protocol import Directory
from .entries import Sharing
from .manifest import Manifest

__all__ = ["first_sharing", "next_sharing"]

_TOKENS = 64  # so many commits may come between a commit whose answer was lost and a look at what became of it


def first_sharing(directory: Directory) -> Sharing:
    """Return what concerns several writers in the first manifest."""
    return Sharing((directory.new_token(),))


def next_sharing(directory: Directory, last: Manifest, following: Manifest) -> Sharing | None:
    """Return what concerns several writers in the manifest after `last`; None where there is only one."""
    if directory.writer is None:
        return None
    before = Sharing() if last.sharing is None else last.sharing
    now = directory.published_at  # of `last`, or None: a lower bound of the time at which this commit is published
    retired: dict[str, float | None] = {}
    for name, time in before.retired.items():
        since = now if time is None else time
        if since is None or now is None or now - since <= GRACE:
            retired[name] = since
    retired.update(dict.fromkeys(sorted(last.names - following.names)))
    return Sharing((*before.tokens, directory.new_token())[-_TOKENS:], retired)
