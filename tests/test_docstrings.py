"""Every public name documents its parameters, results and errors in NumPy's sections."""

import ast
import inspect
import re

import pytest

import vqindex
import vqindex.documents
import vqindex.sharding
import vqindex_datasets

ARRAYS = ("NDArray", "array-like", "ndarray")
OURS = ("vqindex", "vqindex_datasets")
SECTIONS = ("Parameters", "Attributes", "Returns", "Yields", "Raises", "Examples", "Notes")


def public(package):
    """Yield name and object of every public function, class, method and property, inherited ones of ours too."""
    for name in package.__all__:
        thing = getattr(package, name)
        if inspect.isfunction(thing) or inspect.isclass(thing):
            yield f"{package.__name__}.{name}", thing
        if inspect.isclass(thing):
            ours = [base for base in reversed(thing.__mro__) if base.__module__.partition(".")[0] in OURS]
            members = {inner: member for base in ours for inner, member in vars(base).items()}
            for inner, member in members.items():
                member = member.__func__ if isinstance(member, classmethod | staticmethod) else member
                if not inner.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                    yield f"{package.__name__}.{name}.{inner}", member


PACKAGES = (vqindex, vqindex.documents, vqindex.sharding, vqindex_datasets)
THINGS = dict(each for package in PACKAGES for each in public(package))
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
    found = inspect.signature(FUNCTIONS[name]).parameters.values()  # "**options" stands in the text without a type
    parameters = [each.name for each in found if each.name not in ("self", "cls") and each.kind is not each.VAR_KEYWORD]
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
    quiet = {
        "vqindex.VQIndex.train",
        "vqindex.DurableIndex.train",
        "vqindex.Curve.effort_of",
        "vqindex.Curve.scored_of",
        "vqindex_datasets.is_annbench",
    }
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


# ---- the table of parameters on the site, whose parser (griffe) reads types and defaults in its own way


def shown(kind):
    """Return type and default (None: not said) that the site reads in the type of a parameter.

    Braces stand for choices, of which the first is the default, whatever follows them.
    """
    choices = re.match(r"\{(.+)\}", kind)
    if choices:
        return choices[1], choices[1].split(", ")[0]
    said = re.match(r"(.+),\s+default(?: |: |=)(.+)$", kind)
    text, default = said.groups() if said else (kind, None)
    return text.removesuffix(", optional"), default


def wrong_defaults(function, entries):
    """Yield the parameters for which the site would show another default than that of the signature."""
    parameters = inspect.signature(function).parameters
    for names, kind in entries:
        default = shown(kind)[1]
        first = parameters[names[0]].default
        for name in names:
            true = parameters[name].default
            if default is not None and (true is inspect.Parameter.empty or ast.literal_eval(default) != true):
                yield f"{name} has default {true!r}, shown as {default}"
            elif default is None and first is not true and first != true:
                yield f"{name} has default {true!r}, shown as {first!r}, that of {names[0]}"


def wrong_types(entries):
    """Yield the types that the site would show as Python code with another look, such as tuples."""
    for names, kind in entries:
        text = shown(kind)[0]
        try:
            expression = ast.parse(text, mode="eval").body
        except SyntaxError:
            continue  # shown as it is
        names_only = (ast.Name, ast.Attribute, ast.BoolOp, ast.Load, ast.Or, ast.Expression)
        if text == "optional" or not all(isinstance(node, names_only) for node in ast.walk(expression)):
            yield f"{names[0]} : {kind} is shown as {ast.unparse(expression)}"


def entries_of(thing):
    return [
        (names.split(", "), kind)
        for names, kind in re.findall(r"^(\w+(?:, \w+)*) : (.*)$", sections(thing).get("Parameters", ""), re.MULTILINE)
    ]


CALLABLES = {
    name: thing
    for name, thing in THINGS.items()
    if (inspect.isfunction(thing) or inspect.isclass(thing)) and entries_of(thing)
}


@pytest.mark.parametrize("name", CALLABLES)
def test_the_site_shows_types_and_defaults_as_they_are(name):
    entries = entries_of(CALLABLES[name])
    assert [*wrong_defaults(CALLABLES[name], entries), *wrong_types(entries)] == []


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("int, default 4", "a has default 5, shown as 4"),
        ('{"f32", "f16"}, optional', 'a has default 5, shown as "f32"'),
        ("{4, 5}, default 5", "a has default 5, shown as 4"),
    ],
)
def test_the_check_of_defaults_sees_each_form(kind, fault):
    def function(a=5, b=6, c=None):
        pass

    assert list(wrong_defaults(function, [(["a"], kind)])) == [fault]
    assert list(wrong_defaults(function, [(["a", "b"], "int, optional")])) == ["b has default 6, shown as 5, that of a"]
    assert list(wrong_defaults(function, [(["c"], "float, default 0.5")])) == ["c has default None, shown as 0.5"]
    assert list(wrong_defaults(function, [(["a"], "int, default 5"), (["c"], "int, optional")])) == []


@pytest.mark.parametrize(
    ("kind", "right"),
    [
        ("array-like, shape (n, d)", False),
        ('{"a", "b"}', False),
        ("float, int", False),
        ("optional", False),
        ("array-like of shape (n, d)", True),
        ('one of {"a", "b"}, default "a"', True),
        ("str or path", True),
        ("int, default 4", True),
    ],
)
def test_the_check_of_types_sees_what_the_site_would_garble(kind, right):
    assert (list(wrong_types([(["a"], kind)])) == []) == right
