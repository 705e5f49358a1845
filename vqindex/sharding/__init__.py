"""Builds and searches in shards: any worker encodes any shard, any number of times, and one publish makes an index.

>>> from vqindex.sharding import build, plan_build
>>> plan = plan_build("vectors.npy", "index", bits=2, metric="cosine")  # doctest: +SKIP
>>> build(plan, workers=8)  # doctest: +SKIP

`build` runs processes of this machine. Another engine needs two calls only: `encode_shard` for each shard, wherever and
however often, and `commit_build` once.

For searches, `assign` divides the segments of a store, `open_segments` opens those of a worker, and `merge` joins what
workers found. The results equal those of the whole store, bit for bit.
"""

from .commit import commit_build, missing_shards
from .encode import encode_shard
from .local import build
from .merging import ShardHits, merge
from .plan import BuildPlan, discard_build, load_plan, plan_build
from .searching import SegmentView, assign, open_segments, search_segments

__all__ = [
    "BuildPlan",
    "SegmentView",
    "ShardHits",
    "assign",
    "build",
    "commit_build",
    "discard_build",
    "encode_shard",
    "load_plan",
    "merge",
    "missing_shards",
    "open_segments",
    "plan_build",
    "search_segments",
]
