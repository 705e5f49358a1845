"""Builds in shards: any worker encodes any shard, any number of times, and one publish makes it an index.

>>> from vqindex.sharding import build, plan_build
>>> plan = plan_build("vectors.npy", "index", bits=2, metric="cosine")  # doctest: +SKIP
>>> build(plan, workers=8)  # doctest: +SKIP

`build` runs processes of this machine. Another engine needs two calls only: `encode_shard` for each shard, wherever and
however often, and `commit_build` once.
"""

from .commit import commit_build, missing_shards
from .encode import encode_shard
from .local import build
from .plan import BuildPlan, discard_build, load_plan, plan_build

__all__ = [
    "BuildPlan",
    "build",
    "commit_build",
    "discard_build",
    "encode_shard",
    "load_plan",
    "missing_shards",
    "plan_build",
]
