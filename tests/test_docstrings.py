"""Every public name documents its parameters, results and errors in NumPy's sections."""

import inspect
import re

import pytest

import vqindex
import vqindex_datasets

ARRAYS = ("NDArray", "array-like", "ndarray")
SECTIONS = ("Parameters", "Attributes", "Returns", "Yields", "Raises", "Examples", "Notes")


def public(package):
    """Yield name and object of every public function, class, method and property."""
    for name in package.__all__:
        thing = getattr(package, name)
        if inspect.isfunction(thing) or inspect.isclass(thing):
            yield f"{package.__name__}.{name}", thing
        if inspect.isclass(thing):
            for inner, member in vars(thing).items():
                member = member.__func__ if isinstance(member, classmethod | staticmethod) else member
                if not inner.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                    yield f"{package.__name__}.{name}.{inner}", member


THINGS = dict([*public(vqindex), *public(vqindex_datasets)])
# A method that overrides another may refer to it: "as `VQIndex.add`".
FUNCTIONS = {
    name: thing
    for name, thing in THINGS.items()
    if inspect.isfunction(thing) and not re.search(r"\b(as|see|what) `VQIndex\.\w+`", inspect.getdoc(thing) or "")
}


def sections(thing):
    """Return the sections of a docstring: heading to text."""
    heads = "|".join(SECTIONS)
    parts = re.split(rf"^({heads})\n-+\n", inspect.getdoc(thing) or "", flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def described(text):
    """Return names and types of a section's entries; `a, b : int` describes two; a type alone has no name."""
    entries = re.findall(r"^(?:(\w+(?:, \w+)*) : )?([\w{].*)$", text, re.MULTILINE)
    return [(name.strip(), kind) for names, kind in entries for name in names.split(",")]


@pytest.mark.parametrize("name", THINGS)
def test_every_public_name_has_a_docstring(name):
    assert inspect.getdoc(THINGS[name])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_parameters_are_described_in_order(name):
    parameters = [each for each in inspect.signature(FUNCTIONS[name]).parameters if each not in ("self", "cls")]
    if parameters:
        assert [each for each, _ in described(sections(FUNCTIONS[name]).get("Parameters", ""))] == parameters


@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_are_described(name):
    returned = str(inspect.signature(FUNCTIONS[name]).return_annotation)
    parts = sections(FUNCTIONS[name])
    if returned not in ("None", "<class 'NoneType'>"):
        # A function without parameters may say it in its first line: "Return ..."
        in_first_line = inspect.getdoc(FUNCTIONS[name]).startswith(("Return", "Give", "Say", "Yield", "Iterate"))
        takes = set(inspect.signature(FUNCTIONS[name]).parameters) - {"self", "cls"}
        assert "Returns" in parts or "Yields" in parts or (in_first_line and not takes)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_errors_are_described(name):
    """Functions with parameters check them and raise, except those that accept anything."""
    quiet = {"vqindex.VQIndex.train", "vqindex.DurableIndex.train", "vqindex_datasets.is_annbench"}
    takes = set(inspect.signature(FUNCTIONS[name]).parameters) - {"self", "cls"}
    assert "Raises" in sections(FUNCTIONS[name]) or not takes or name in quiet


def test_the_check_of_arrays_finds_their_descriptions():
    kinds = [kind for thing in THINGS.values() for text in sections(thing).values() for _, kind in described(text)]
    assert sum(any(word in kind for word in ARRAYS) for kind in kinds) > 20


@pytest.mark.parametrize("name", THINGS)
def test_arrays_have_shapes_and_dtypes(name):
    for text in sections(THINGS[name]).values():
        for entry, kind in described(text):
            if any(word in kind for word in ARRAYS):
                assert "shape" in kind, f"{entry} : {kind}"
                assert "array-like" in kind or re.search("int|float|bool", kind), f"{entry} : {kind}"
