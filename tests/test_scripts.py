"""The scripts of the README: the files they read, share and name exist."""

import ast
import json
import re
import runpy
import subprocess
import sys
import tomllib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts"


@pytest.fixture
def environments() -> Any:
    """The module shared by the scripts."""
    spec = spec_from_file_location("environments", SCRIPTS / "environments.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["environments.py", "test", "matrix", "demo"])
def test_an_old_python_can_read_a_script(name: str) -> None:
    """A script must be readable there to find a newer Python."""
    ast.parse((SCRIPTS / name).read_text(), feature_version=(3, 7))


def test_the_lowest_dependencies_are_all_of_them(environments: Any) -> None:
    """Each runtime dependency is pinned at its lower bound, including grpcio."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    expected = [re.sub(r">=([\w.]+).*", r"==\1", dependency) for dependency in project["dependencies"]]
    assert environments.lowest() == expected
    assert environments.floor() == expected[:1]
    assert expected[0].startswith("grpcio==")


def test_what_the_matrix_leaves_out_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    """A renamed file does not run in the matrix unnoticed."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    independent = runpy.run_path(str(SCRIPTS / "matrix"))["INDEPENDENT"]
    monkeypatch.delitem(sys.modules, "environments", raising=False)
    assert independent
    assert [path for path in independent if not (ROOT / path).exists()] == []


def test_workers_leave_out_what_is_alone(environments: Any) -> None:
    """There is more than one worker, even on one core."""
    arguments = environments.side_by_side()
    assert int(arguments[arguments.index("-n") + 1]) >= 2
    assert arguments[arguments.index("-m") + 1] == "not alone"


@pytest.mark.parametrize(
    ("lines", "branches", "missed"), [(1000, 500, []), (1, 500, ["lines"]), (1000, 1, ["branches"])]
)
def test_too_little_coverage_fails(tmp_path: Path, lines: int, branches: int, missed: list[str]) -> None:
    """Lines and branches are compared with pyproject.toml each; the message names what is too low."""
    totals = {"covered_lines": lines, "num_statements": 1000, "covered_branches": branches, "num_branches": 500}
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"totals": totals}))
    command = [sys.executable, str(ROOT / "scripts" / "coverage"), str(report)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == bool(missed), run.stderr
    assert re.findall(r"(lines|branches): [\d.]+ % <", run.stderr) == missed
    assert "% of lines" in run.stdout


def test_phrases_that_must_not_come_back_are_found(tmp_path: Path) -> None:
    """In docstrings, comments, pages and log lines; not in other code, and not between backticks."""
    (tmp_path / "a.py").write_text(
        '"""Whoever waits."""\nwhoever = "is told"  # it is told\n_log.info("it was told")\n'
    )
    (tmp_path / "a.md").write_text("Nobody is told.\n\n```\nwhoever\n```\n\n`whoever`, plain\n")
    paths = [str(tmp_path / "a.py"), str(tmp_path / "a.md")]
    run = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "language"), *paths], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    found = [line.rpartition("/")[2].split(": ")[:2] for line in run.stdout.splitlines()]
    assert found == [
        ["a.md:1", "'is told'"],
        ["a.py:1", "'Whoever'"],
        ["a.py:2", "'is told'"],
        ["a.py:3", "'was told'"],
    ]


def test_a_sample_of_the_prose_repeats_by_its_seed() -> None:
    """The seed is printed; the same one draws the same, another one something else."""

    def drawn(*seed: str) -> list[str]:
        command = [sys.executable, str(ROOT / "scripts" / "sample"), *seed]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()

    first, chosen = drawn("7"), drawn()
    assert first[0] == "seed 7"
    assert [line.startswith("docs/") for line in first[-3:]] == [True] * 3
    assert drawn("7") == first
    assert drawn(chosen[0].removeprefix("seed ")) == chosen
    assert first[1:] != chosen[1:]
