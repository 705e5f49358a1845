"""The way of a release, once: sdist, wheel from it without a network, its contents, and its use.

    python .ci/wheel.py DIST SCRATCH       DIST gets the sdist and the wheel; SCRATCH the environments

Needs the package `build` beside it. Run by `make wheel`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parent.parent
PACKAGES = {"vqindex", "vqindex_bench", "vqindex_cli", "vqindex_datasets", "vqindex_gpu", "vqindex_serve"}
# All that a package may hold. Sources of the extension stay in the sdist; kernels that are compiled at run time do not.
SUFFIXES = {".py", ".pyi", ".typed", ".so", ".pyd", ".cu", ".cuh"}
DATA = {
    "vqindex_bench/report.html",
    "vqindex_datasets/data/README.md",
    "vqindex_datasets/data/glove-100-sample.hdf5",
}
NEEDED = {
    "vqindex/py.typed",
    "vqindex/_native.pyi",
    "vqindex_bench/py.typed",
    "vqindex_serve/py.typed",
    "vqindex_cli/py.typed",
    "vqindex_datasets/py.typed",
    *DATA,
}
IN_SDIST = {"LICENSE", "NOTICE", "README.md", "FORMAT.md", "CHANGELOG.md", "Makefile", "tests/conftest.py"}


def run(*command: object, **options: object) -> str:
    """Run a command; its output is shown only if it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)  # type: ignore[call-overload]
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}exit code {done.returncode}")
    return str(done.stdout)


def environment(folder: Path, *requirements: str) -> Path:
    """Make an empty environment with some requirements; return its folder of programs."""
    venv.create(folder, clear=True, with_pip=True)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    if requirements:
        run(programs / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements)
    return programs


def build_requirements(project: Path, python: Path) -> list[str]:
    """Return what [build-system] declares, which the backend then extends (by CMake where the system has none)."""
    text = (project / "pyproject.toml").read_text()
    declared = re.findall(r'"([^"]+)"', re.search(r"^requires = \[(.*?)\]", text, re.MULTILINE | re.DOTALL)[1])  # type: ignore[index]
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *declared)
    ask = "from scikit_build_core.build import get_requires_for_build_wheel as ask; print(*ask(), sep='\\n')"
    return [*declared, *filter(None, run(python, "-c", ask, cwd=project).split("\n"))]


def offline_wheel(sdist: Path, dist: Path, scratch: Path) -> Path:
    """Build the wheel from the sdist alone, in an environment that has its build requirements, with no way out."""
    with tarfile.open(sdist) as archive:
        names = {str(PurePosixPath(*PurePosixPath(name).parts[1:])) for name in archive.getnames()}
        archive.extractall(scratch / "sdist")
    if missing := IN_SDIST - names:
        sys.exit(f"{sdist.name} lacks {', '.join(sorted(missing))}")
    python = environment(scratch / "build") / "python"
    project = next((scratch / "sdist").iterdir())
    requirements = build_requirements(project, python)
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements)
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    flags = ("--no-build-isolation", "--no-index", "--no-deps")
    run(python, "-m", "pip", "wheel", *flags, "--wheel-dir", dist, sdist, env={**os.environ, **nowhere})
    print(f"built offline from {sdist.name} with {', '.join(requirements)}")
    return next(dist.glob("*.whl"))


def check_contents(wheel: Path) -> None:
    """Exit unless the wheel holds what it should and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    info = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    needed = NEEDED | {f"{next(iter(info)).split('/')[0]}/licenses/{name}" for name in ("LICENSE", "NOTICE")}
    strange = {
        name
        for name in names - info - DATA
        if name.split("/")[0] not in PACKAGES
        or PurePosixPath(name).suffix not in SUFFIXES
        or "tests" in name.split("/")
    }
    native = [name for name in names if re.fullmatch(r"vqindex/_native[^/]*\.(so|pyd)", name)]
    if strange or needed - names or len(native) != 1:
        sys.exit(f"{wheel.name}: unexpected {sorted(strange)}, missing {sorted(needed - names)}, extensions {native}")
    print(f"{wheel.name}: {len(names)} files, {wheel.stat().st_size / 2**20:.1f} MiB")


def import_milliseconds(python: Path) -> tuple[float, float]:
    """Return how long numpy takes to import, and how much longer vqindex takes; best of five. A report, no test."""
    best = [float("inf")] * 2
    for _ in range(5):
        done = subprocess.run([python, "-X", "importtime", "-c", "import vqindex"], capture_output=True, text=True)
        took = {
            name: int(cumulative) / 1000
            for cumulative, name in re.findall(r"\|\s+(\d+) \|\s+(numpy|vqindex)$", done.stderr, re.MULTILINE)
        }
        best = [min(best[0], took["numpy"]), min(best[1], took["vqindex"] - took["numpy"])]
    return best[0], best[1]


def main() -> None:
    """Run all of it."""
    dist, scratch = Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute()
    run(sys.executable, "-m", "build", "--sdist", "--outdir", dist, ROOT)
    wheel = offline_wheel(next(dist.glob("*.tar.gz")), dist, scratch)
    check_contents(wheel)
    programs = environment(scratch / "use", str(wheel))
    run(programs / "vqindex", "demo", "--quick", "--no-plot", "--output", "demo", cwd=scratch)
    print(run(programs / "vqindex", "verify", "demo/glove-default-4.vqi", cwd=scratch).strip())
    numpy, ours = import_milliseconds(programs / "python")
    print(f"import vqindex: {ours:.0f} ms, and {numpy:.0f} ms for numpy (on this machine, as busy as it is)")


if __name__ == "__main__":
    main()
