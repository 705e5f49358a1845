"""Imports go one way: no cycles, and no module imports one of a higher layer.

All imports count, also those inside functions, under TYPE_CHECKING, and by `importlib.import_module` of a fixed name.
An import from the package itself (``from vqindex import ...``) counts as one of the highest layer that its
``__init__.py`` imports. Only that file may import anything.
"""

import ast
from collections import deque
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Lowest first. A module may import others of its layer and of lower ones; "codes/*" is the folder and all in it.
LAYERS = (
    ("errors", "version", "changes", "_native", "native_calls", "underflow"),
    ("arrays", "spec", "arguments", "codes/*"),
    ("rows/*", "center", "residuals", "result"),
    ("backends/*",),
    ("encoder", "linking", "lost_walks"),
    ("directory/*",),
    ("file_format/*",),
    # They know no index.
    (
        "store/entries",
        "store/manifest",
        "store/copies",
        "store/sharing",
        "store/removed",
        "store/links",
        "store/merge",
        "store/snapshot",
        "store/segments",
        "store/commit",
    ),
    ("search/*",),
    ("index", "row_queries", "model_checks", "planning"),
    ("store/*",),
    ("sharding/*",),
    ("documents/*",),
    ("integrations/*",),
    ("__main__",),
)
FACADE_LAYER = LAYERS.index(("store/*",))  # of `from vqindex import ...`

PACKAGES = {
    "vqindex": ROOT / "vqindex",
    "vqindex_gpu": ROOT / "gpu" / "vqindex_gpu",
    "vqindex_datasets": ROOT / "datasets" / "vqindex_datasets",
    "vqindex_bench": ROOT / "bench" / "vqindex_bench",
    "vqindex_serve": ROOT / "serve" / "vqindex_serve",
    "vqindex_cli": ROOT / "cli" / "vqindex_cli",
}
# Which of the other packages none of a package's modules may import.
FORBIDDEN = {
    "vqindex": {"vqindex_gpu", "vqindex_datasets", "vqindex_bench", "vqindex_serve", "vqindex_cli"},
    "vqindex_gpu": {"vqindex_bench", "vqindex_serve", "vqindex_cli"},
    "vqindex_datasets": {"vqindex_bench", "vqindex_serve", "vqindex_cli"},
    "vqindex_bench": {"vqindex_serve", "vqindex_cli"},
    "vqindex_serve": {"vqindex_datasets", "vqindex_bench", "vqindex_cli"},
}
EXCEPTIONS = {
    ("vqindex.backends.registry", "vqindex_gpu"),  # loads the CUDA backend if it is installed
    ("vqindex.sharding.source", "vqindex_datasets"),  # opens the data of a plan, whatever their format
    ("vqindex.__main__", "vqindex_cli"),  # python -m vqindex; nothing imports it
}


def modules_of(folder):
    """Return {dotted name: file} of all modules of a package."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(name, path, known):
    """Yield the (module, line) of each import of a module; `known` tells a submodule from another name."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield (inner if inner in known else base), node.lineno
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                target = node.args[0].value
                yield (f"{package}{target}" if target.startswith(".") else target), node.lineno


def graph_of(folder):
    """Return {module: {imported module: line}} of a package, other packages included."""
    files = modules_of(folder)
    known = {*files, f"{folder.name}._native"}
    graph = {}
    for name, path in files.items():
        targets = graph[name] = {}
        for target, line in imports_of(name, path, known):
            if target != name:
                targets.setdefault(target, line)
    return graph


def cycles_of(graph):
    """Return a shortest cycle of imports for each module on any, as a list that ends where it begins."""
    found = {}
    for start in graph:
        before, waiting = {start: None}, deque([start])
        while waiting:
            at = waiting.popleft()
            if start in graph[at]:
                path = []
                while at is not None:
                    path.insert(0, at)
                    at = before[at]
                first = path.index(min(path))
                found.setdefault(frozenset(path), [*path[first:], *path[: first + 1]])
                break
            for target in graph[at]:
                if target in graph and target not in before:
                    before[target] = at
                    waiting.append(target)
    return list(found.values())


def layer_of(name, package, layers):
    """Return the number of a module's layer, None if it has none."""
    inner = name.removeprefix(f"{package}.").replace(".", "/")
    for number, members in enumerate(layers):
        for member in members:
            folder = member.removesuffix("/*")
            if inner == folder or (member.endswith("/*") and inner.startswith(f"{folder}/")):
                return number
    return None


def faults_of(folder, layers, facade_layer):
    """Return one line of text for each cycle, climbing import, and module without a layer."""
    package, graph = folder.name, graph_of(folder)
    graph.pop(package, None)  # `__init__.py` may import anything
    faults = [f"cycle: {' -> '.join(cycle)}" for cycle in cycles_of(graph)]
    for name, targets in graph.items():
        own = layer_of(name, package, layers)
        if own is None:
            faults.append(f"no layer: {name}")
            continue
        for target, line in targets.items():
            if target != package and not target.startswith(f"{package}."):
                continue
            other = facade_layer if target == package else layer_of(target, package, layers)
            if other is None:
                faults.append(f"no layer: {target}, imported by {name}:{line}")
            elif other > own:
                faults.append(f"climbs: {name}:{line} imports {target}")
    return faults


def test_no_import_of_the_library_climbs_or_goes_in_a_circle():
    faults = faults_of(PACKAGES["vqindex"], LAYERS, FACADE_LAYER)
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("package", FORBIDDEN)
def test_no_package_imports_those_that_are_built_on_it(package):
    graph = graph_of(PACKAGES[package])
    assert graph, f"{PACKAGES[package]} has no modules"
    wrong = [
        f"{name}:{line} imports {target}"
        for name, targets in graph.items()
        for target, line in targets.items()
        if target.split(".")[0] in FORBIDDEN[package] and (name, target.split(".")[0]) not in EXCEPTIONS
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", ["store.commit", "store.removed", "store.merge"])
def test_commits_know_directories_only_by_their_protocol(name):
    targets = graph_of(PACKAGES["vqindex"])[f"vqindex.{name}"]
    assert not [target for target in targets if target in ("vqindex.directory.local", "vqindex.directory.lock")]


# ---- the check itself, on a small made-up package

TOY_LAYERS = (("low",), ("middle/*",), ("high",))
TOY = {
    "__init__.py": "from .high import top\nfrom . import low\n",
    "low.py": "import os\n\nbase = os\n",
    "middle/__init__.py": "from .one import two\n",
    "middle/one.py": "from .two import value as two\nfrom ..low import base\n",
    "middle/two.py": "from .. import low\n\nvalue = low\n",
    "high.py": "from .middle import one\nimport toy.low\n\ntop = one, toy\n",
}


def toy(folder, **changed):
    """Write the made-up package with more text in some of its files, and return what is wrong with it."""
    for name, text in TOY.items():
        path = folder / "toy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + changed.pop(name.removesuffix(".py").replace("/", "_"), ""))
    for name, text in changed.items():
        (folder / "toy" / f"{name}.py").write_text(text)
    return faults_of(folder / "toy", TOY_LAYERS, 2)


def test_check_accepts_a_package_whose_imports_go_down(tmp_path):
    assert toy(tmp_path) == []


@pytest.mark.parametrize(
    "text",
    [
        "from . import high\n",
        "from .high import top\n",
        "import toy.high\n",
        "from toy import high\n",
        "from toy.high import top\n",
        "def later():\n    from .high import top\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .high import top\n",
        "try:\n    from .high import top\nexcept ImportError:\n    pass\n",
        "import importlib\nimportlib.import_module('toy.high')\n",
        "import importlib\nimportlib.import_module('.high', __package__)\n",
    ],
)
def test_check_finds_an_import_that_climbs_however_it_is_written(tmp_path, text):
    faults = toy(tmp_path, low=text)
    assert any(fault.startswith("climbs: toy.low:") and fault.endswith(" imports toy.high") for fault in faults), faults


def test_check_finds_an_import_that_climbs_from_a_folder(tmp_path):
    assert toy(tmp_path, middle_two="from ..high import top\n") == [
        "cycle: toy.high -> toy.middle.one -> toy.middle.two -> toy.high",
        "climbs: toy.middle.two:4 imports toy.high",
    ]


def test_check_names_a_cycle_within_a_layer(tmp_path):
    faults = toy(tmp_path, middle_two="def later():\n    from . import one\n")
    assert faults == ["cycle: toy.middle.one -> toy.middle.two -> toy.middle.one"]


def test_check_counts_an_import_from_the_package_itself_as_one_from_its_top(tmp_path):
    assert toy(tmp_path, low="from toy import top\n") == ["climbs: toy.low:4 imports toy"]


def test_check_finds_a_module_that_no_layer_names(tmp_path):
    assert toy(tmp_path, stray="from . import low\n") == ["no layer: toy.stray"]
