"""Every test of this folder names the report that it came from."""

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
REPORT = re.compile(r"([\w.-]+(?: \([\w-]+\))?) (#\d+(?:,? (?:and )?#\d+)*)")


def comments_of(path):
    """Yield the name of each test and the comment lines above it."""
    lines = path.read_text().splitlines()
    for function in ast.parse("\n".join(lines)).body:
        if isinstance(function, ast.FunctionDef) and function.name.startswith("test_"):
            first = last = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)]) - 1
            while lines[first - 1].startswith("# "):
                first -= 1
            yield function.name, lines[first:last]


def test_every_test_here_names_the_reports_that_it_came_from():
    reports, tests = set(), []
    for path in HERE.glob("test_*.py"):
        if path.name == Path(__file__).name:
            continue
        for name, comments in comments_of(path):
            assert comments, f"{path.name}: {name} has no comment with a project and a number"
            for comment in comments:
                named, said, _ = comment[2:].partition(": ")
                found = REPORT.findall(named)
                assert found, f"{path.name}: {comment}"
                assert said, f"{path.name}: {comment} says nothing"
                reports.update(
                    (project, number) for project, numbers in found for number in re.findall(r"\d+", numbers)
                )
            tests.append(name)
    assert len(tests) == len(set(tests)), "each name is there once"
    assert len(tests) > 60
    assert len(reports) > 120
