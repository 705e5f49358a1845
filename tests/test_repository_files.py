"""The files that hosts and readers of the repository use agree with the project."""

import re
from pathlib import Path

import pytest

import vqindex

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed: pip install 'vqindex[dev]'")

ROOT = Path(__file__).parent.parent
WORKFLOWS = ROOT / ".github" / "workflows"
TEMPLATES = ROOT / ".github" / "ISSUE_TEMPLATE"
PAPERS = {"2504.19874", "2406.03482", "2405.12497", "2604.18555", "2604.19528"}


def read(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def commands(workflow):
    return [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]


def make_targets(command):
    found = re.findall(r"^make\s+([^#\n]*)", command, flags=re.MULTILINE)
    return [word for words in found for word in words.split() if "=" not in word]


@pytest.mark.parametrize("name", ["ci.yml", "wheels.yml"])
def test_workflows_name_targets_of_the_makefile(name):
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    used = [target for command in commands(read(WORKFLOWS / name)) for target in make_targets(command)]
    assert used
    assert set(used) <= targets


def test_changes_are_tested_on_each_system_that_wheels_are_built_for():
    jobs = read(WORKFLOWS / "ci.yml")["jobs"]
    tested = {*jobs["test"]["strategy"]["matrix"]["os"], jobs["test-windows"]["runs-on"]}
    built = set(read(WORKFLOWS / "wheels.yml")["jobs"]["wheels"]["strategy"]["matrix"]["os"])
    assert built - tested == {"macos-15-intel"}  # its kernels are those of Linux on x86-64
    assert tested <= built


def test_changes_are_tested_on_the_oldest_python_that_is_allowed():
    oldest = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    more = read(WORKFLOWS / "ci.yml")["jobs"]["test"]["strategy"]["matrix"]["include"]
    assert [entry["python"] for entry in more] == [oldest.group(1)]


def test_every_job_has_a_time_limit():
    assert all(job["timeout-minutes"] <= 45 for job in read(WORKFLOWS / "ci.yml")["jobs"].values())


def test_the_citation_has_our_version_and_license():
    citation = read(ROOT / "CITATION.cff")
    assert citation["version"] == vqindex.__version__
    assert citation["license"] in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_citation_names_each_paper_once_with_its_authors():
    references = read(ROOT / "CITATION.cff")["references"]
    assert sorted(reference["url"].rsplit("/", 1)[1] for reference in references) == sorted(PAPERS)
    assert all(reference["authors"] and reference["title"] and reference["year"] for reference in references)


@pytest.mark.parametrize("name", ["bug.yml", "feature.yml"])
def test_issue_forms_have_a_name_and_distinct_fields(name):
    form = read(TEMPLATES / name)
    fields = [entry["id"] for entry in form["body"] if entry["type"] != "markdown"]
    assert form["name"]
    assert form["description"]
    assert len(fields) == len(set(fields)) > 0
