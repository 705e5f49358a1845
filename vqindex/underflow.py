"""Tiny numbers become 0, also after a caller's ``np.seterr(all="raise")``."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np

__all__ = ["ignoring_underflow"]

P = ParamSpec("P")
T = TypeVar("T")


def ignoring_underflow(function: Callable[P, T]) -> Callable[P, T]:
    """Return a function in which underflow is no error of NumPy; for functions that compute floats with it."""

    @wraps(function)
    def quiet(*args: P.args, **kwargs: P.kwargs) -> T:
        with np.errstate(under="ignore"):
            return function(*args, **kwargs)

    return quiet
