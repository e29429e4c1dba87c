"""grpcio's private names may disappear: public ways replace missing ones, and one log line names them."""

import ast
import io
import os
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

import meshlib
from meshlib._adapt.grpcio import features
from meshlib.testing import ProcessServer

CHILD = Path(__file__).with_name("every_kind_child.py")
SOURCES = sorted((Path(meshlib.__file__).parent / "_adapt" / "grpcio").glob("*.py"))
CORE = sorted({name for path in SOURCES for name in re.findall(r"\bcygrpc\.(\w+)", path.read_text())})
"""Names that meshlib uses from grpc's compiled part."""
READ_BY_CORE = {"_channel", "_credentials", "_loop"}
"""Attributes of grpc's Python that its compiled part reads, or that are also names of its modules."""
EXPECTED = "private names missing or different, slower public ones used: "


@pytest.fixture
def address() -> Iterator[str]:
    """A server in a separate process."""
    with ProcessServer() as server:
        yield server.address


def _child(address: str, *names: str, path: Path | None = None) -> list[str]:
    """The program's output, a line for each name."""
    paths = [str(path)] if path else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, *sys.path])}
    command = [sys.executable, "-W", "error", str(CHILD), address, *names]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=55, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout.splitlines()


def test_all_private_names_are_there() -> None:
    """The tested grpcio has all of them except those documented as missing."""
    page = (Path(__file__).parents[2] / "docs" / "reference" / "stability.md").read_text()
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|", page, re.MULTILINE))
    assert {feature.name for feature in features.ALL} <= set(rows)
    version = tuple(int(number) for number in grpc.__version__.split(".")[:2])
    for feature in features.ALL:
        since = re.search(r"before 1\.(\d+)", rows[feature.name])
        assert bool(feature) is not (since is not None and version < (1, int(since[1]))), feature.name


def test_each_name_of_the_compiled_part_may_go(address: str) -> None:
    """Every kind of call works without it, on both shells, and one line names what is missing."""
    lines = _child(address, *CORE)
    assert sorted(line.partition(":")[0] for line in lines) == CORE
    assert [line for line in lines if EXPECTED not in line] == []


def _renamed(source: str, names: set[str]) -> str:
    """Python source with these identifiers renamed."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return tokenize.untokenize((kind, f"{text}_anew" if text in names else text) for kind, text, *_ in tokens)


def _private_names() -> set[str]:
    """Identifiers of grpc's Python that meshlib uses."""
    found = {f"Intercepted{name}Call" for name in features.KINDS.values()}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "value", None)
            if isinstance(name, str) and re.fullmatch(r"_[A-Za-z]\w*", name):
                found.add(name)
    return found - READ_BY_CORE - set(CORE)


def test_every_python_name_may_be_another(address: str, tmp_path: Path) -> None:
    """Every kind of call works on a grpcio with renamed private names, and one line names what is missing."""
    theirs = Path(grpc.__file__).parent
    modules = {path.stem for path in theirs.rglob("*.py")} | {path.name for path in theirs.rglob("*") if path.is_dir()}
    names = _private_names() - modules
    replaced = 0
    for path in theirs.rglob("*"):
        copy = tmp_path / "grpc" / path.relative_to(theirs)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".py":
            source = path.read_text(encoding="utf-8")
            if any(name in source for name in names):
                source, replaced = _renamed(source, names), replaced + 1
            copy.write_text(source, encoding="utf-8")
        elif path.suffix in (".so", ".pem"):
            copy.symlink_to(path)
    assert replaced > 5
    (line,) = _child(address, path=tmp_path)
    lost = line.partition(EXPECTED)[2].split("; ")
    renamed = (
        features.ERRORS,
        features.BLOCKING,
        features.DELIVERY,
        features.EXIT,
        features.AIO_REQUESTS,
        features.AIO_INTERCEPTED,
    )
    assert lost == [feature.name for feature in renamed]


def test_every_public_way_serves(address: str) -> None:
    """Without any private name every kind of call works, on both shells."""
    (line,) = _child(address, "everything")
    assert line.partition(EXPECTED)[2].split("; ") == [feature.name for feature in features.ALL]
