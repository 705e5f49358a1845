"""The stub of the extension agrees with it: names, parameters in order, and which have defaults.

nanobind can write a stub during the build only if the built module can be imported. A module compiled for another
machine can't be, so the stub is written by hand, and these tests compare it.
"""

import ast
import inspect
import re
from pathlib import Path

import pytest

from vqindex import _native

STUB = ast.parse((Path(__file__).parent.parent / "vqindex" / "_native.pyi").read_text())


def in_stub(tree, prefix=""):
    """Yield name and parameters of every function and method: (name, has a default) in order."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from in_stub(node, f"{node.name}.")
        if isinstance(node, ast.FunctionDef):
            names = [argument.arg for argument in node.args.args]
            without = len(names) - len(node.args.defaults)
            yield prefix + node.name, [(name, i >= without) for i, name in enumerate(names) if name != "self"]


def in_module(holder, prefix=""):
    """Yield the same of the module, from the signatures that nanobind keeps."""
    for name, member in vars(holder).items():
        if inspect.isclass(member) and not prefix:
            yield from in_module(member, f"{name}.")
        elif isinstance(member, property):
            yield prefix + name, []
        elif hasattr(member, "__nb_signature__") and (name == "__init__" or not name.startswith("_")):
            yield prefix + name, parameters(member.__nb_signature__[0][0])


def parameters(signature):
    """Return names of a signature's parameters, and whether they have a default."""
    inside = signature[signature.index("(") + 1 : signature.rindex(") ->")]
    inside = re.sub(r"\[[^\[\]]*\]", "", re.sub(r"\[[^\[\]]*\]", "", re.sub(r"\([^()]*\)", "", inside)))
    parts = [part.strip() for part in inside.split(",") if part.strip() not in ("", "self", "/", "*")]
    return [(re.split(r"[:=]", part)[0].strip(), "=" in part) for part in parts]


FOUND = dict(in_module(_native))
WRITTEN = dict(in_stub(STUB))


def test_stub_names_agree_with_the_compiled_module():
    assert set(FOUND) == set(WRITTEN)


@pytest.mark.parametrize("name", FOUND)
def test_stub_parameters_agree_with_the_compiled_module(name):
    assert FOUND[name] == WRITTEN[name]
