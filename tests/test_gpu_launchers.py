"""The launchers' dataclasses are the kernels' signatures: parameters, their order and their C types."""

import importlib
import pkgutil
import re
from typing import get_type_hints

import numpy as np
import pytest

from vqindex_gpu import launchers, modules
from vqindex_gpu.launchers import scan
from vqindex_gpu.launchers.parameters import DeviceSelection, KernelArgs, Parameters
from vqindex_gpu.layout import QUERY, SEGMENT

C_TYPES = {np.int32: "int", np.int64: "i64", np.float32: "float", np.float64: "double"}


def all_args():
    """Return the dataclass of every signature."""
    found = []
    for info in pkgutil.iter_modules(launchers.__path__):
        module = importlib.import_module(f"{launchers.__name__}.{info.name}")
        members = [thing for thing in vars(module).values() if isinstance(thing, type)]
        args = [thing for thing in members if issubclass(thing, KernelArgs) and thing.__module__ == module.__name__]
        found += [each for each in args if each is not KernelArgs]
    return found


def flat_fields(args):
    """Yield name and C type of every field, those of nested parameters in their place; "pointer" for arrays."""
    hints = get_type_hints(args)
    for name, kind in args.scalar_types().items():
        if isinstance(hints[name], type) and issubclass(hints[name], Parameters):
            yield from flat_fields(hints[name])
        else:
            yield name, "pointer" if kind is None else C_TYPES[kind]


def signature(kernel, variant):
    """Return name and C type of every parameter of a kernel's entry, with the macro of a variant defined."""
    text = modules.source(kernel)
    (start,) = (match.end() for match in re.finditer(rf"^vq_{kernel}\(", text, re.MULTILINE))
    lines, is_active = [], True
    for line in text[start : text.index(") {", start)].splitlines():
        if line.startswith("#if"):
            is_active = bool(variant[line.removeprefix("#if VQ_")])
        elif line.startswith("#else"):
            is_active = not is_active
        elif line.startswith("#endif"):
            is_active = True
        elif is_active:
            lines.append(line)
    parameters = [parameter.split() for parameter in "".join(lines).split(",")]
    return [(words[-1], "pointer" if words[-2].endswith("*") else words[-2]) for words in parameters]


def test_every_kernel_has_a_launcher_of_its_name():
    kernels = {path.stem for path in modules.KERNELS.glob("*.cu")}
    assert {args.kernel for args in all_args()} == kernels
    for args in all_args():
        assert args.__module__ == f"{launchers.__name__}.{args.kernel}"


@pytest.mark.parametrize("args", all_args(), ids=lambda args: f"{args.kernel} {args.__name__}")
def test_fields_are_the_parameters_of_the_kernel_in_order(args):
    assert list(flat_fields(args)) == signature(args.kernel, args.variant)


@pytest.mark.parametrize("args", all_args(), ids=lambda args: f"{args.kernel} {args.__name__}")
def test_docstrings_describe_every_field_in_order(args):
    described = re.findall(r"^    (\w+(?:, \w+)*) : ", args.__doc__, re.MULTILINE)
    assert [name for names in described for name in names.split(", ")] == list(args.scalar_types())


@pytest.mark.parametrize(("name", "dtype"), [("vq_segment", SEGMENT), ("vq_query", QUERY)])
def test_structures_have_the_fields_and_sizes_of_the_kernels(name, dtype):
    text = re.sub(r"//.*", "", (modules.KERNELS / "layout.cuh").read_text())
    (body,) = re.findall(rf"struct {name} {{(.*?)}};", text, re.DOTALL)
    fields = []
    for declaration in body.split(";")[:-1]:
        kind, *names = declaration.replace(",", " ").split()
        fields += [(each, {"u64": 8, "i64": 8, "float": 4}[kind]) for each in names]
    assert fields == [(each, dtype[each].itemsize) for each in dtype.names]


def test_numbers_are_passed_with_the_types_of_the_kernel():
    selection = DeviceSelection(allowed=None, allowed_stride=2**40)
    args = scan.Args(None, 1, 2, 3, None, None, None, None, 4, True, selection, None, 5)
    types = [type(value) for value in args.arguments() if value is not None]
    assert types == [np.int32] * 5 + [np.int64] * 2
    assert args.arguments()[-3] == 2**40
