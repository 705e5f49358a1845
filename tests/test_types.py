"""Names that users pass are literals, so that type checkers and editors know them; they are those that are accepted."""

from typing import Literal, get_args, get_origin, get_type_hints

import pytest

import vqindex
from vqindex import InvalidInputError, VQIndex
from vqindex.backends.registry import resolve


def literal_of(call, name):
    """Return the names that a parameter takes."""
    hint = get_type_hints(call)[name]
    found = [part for part in (hint, *get_args(hint)) if get_origin(part) is Literal]
    assert len(found) == 1, f"{name}: {hint}"
    return get_args(found[0])


@pytest.mark.parametrize("name", ["metric", "codec", "sketch", "rotation", "keep_vectors"])
def test_literals_are_the_names_that_are_accepted(name):
    names = literal_of(VQIndex.__init__, name)
    assert literal_of(vqindex.open, name) == names
    for value in names:
        VQIndex(8, 2, **{name: value})
    with pytest.raises(InvalidInputError) as caught:
        VQIndex(8, 2, **{name: "something else"})
    for value in names:
        assert value in str(caught.value), "the message lists the same names"


@pytest.mark.parametrize("call", [VQIndex.__init__, vqindex.open, VQIndex.load, VQIndex.to])
def test_devices_are_literals(call):
    names = literal_of(call, "device")
    assert {resolve(name) for name in names} == {"native", "reference", "cuda"}
    with pytest.raises(vqindex.BackendError) as caught:
        resolve("something else")
    for name in names:
        assert name in str(caught.value)
