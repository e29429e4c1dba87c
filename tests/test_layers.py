"""Imports go strictly down and the core stays pure, as read from the syntax trees.

An import inside a function or under ``TYPE_CHECKING`` is a dependency like any other. The contracts of import-linter in
``pyproject.toml`` cover the coarse rules; this file has the others, and proves that breaches are found.
"""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "meshlib"

# From the bottom up; parts of one layer never import each other. Every public name of the package is facade, above
# them.
LAYERS = (("_core",), ("_adapt",), ("_control", "telemetry"), ("_sync", "_aio"))
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}
FACADE = len(LAYERS)

# Allowed imports of the core: values and algorithms. Nothing that waits, opens, spawns or reads a clock.
# fmt: off
PURE = frozenset({
    "__future__", "abc", "bisect", "collections", "collections.abc", "contextlib", "copy", "dataclasses", "difflib",
    "enum", "fractions", "functools", "hashlib", "heapq", "ipaddress", "itertools", "json", "math", "numbers",
    "operator", "re", "reprlib", "statistics", "string", "struct", "types", "typing", "urllib.parse", "weakref",
})
# fmt: on
STRATEGIES = frozenset({"retry_base", "stop_base", "wait_base"})  # of tenacity


class Imports(ast.NodeVisitor):
    """Every module that a file imports: ``(line, module, name)``, the name None for a plain ``import module``."""

    def __init__(self, package: str) -> None:
        self.package = package  # of the file, for relative imports
        self.found: list[tuple[int, str, str | None]] = []
        self.grpc_names = {"grpc": "grpc"}  # local name -> module, to detect `grpc._private` and `aio._private`

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.found.append((node.lineno, alias.name, None))
            if alias.asname and alias.name in ("grpc", "grpc.aio"):
                self.grpc_names[alias.asname] = alias.name

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        parents = self.package.split(".")
        base = parents[: len(parents) - node.level + 1] if node.level else []
        module = ".".join([*base, *([node.module] if node.module else [])])
        for alias in node.names:
            self.found.append((node.lineno, module, alias.name))
            if (module, alias.name) == ("grpc", "aio"):
                self.grpc_names[alias.asname or "aio"] = "grpc.aio"

    def visit_Attribute(self, node: ast.Attribute) -> None:
        chain = ast.unparse(node).split(".")
        if chain[0] in self.grpc_names and all(part.isidentifier() for part in chain):
            self.found.append((node.lineno, ".".join([self.grpc_names[chain[0]], *chain[1:-1]]), chain[-1]))
        else:
            self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id == "__import__":
            self.found.append((node.lineno, "__import__", None))
        self.generic_visit(node)


def breaches(package: Path) -> list[str]:
    """Breaches in the source of ``package``, as ``file:line: sentence``; missing twins at the end."""
    found = []
    for path in sorted(package.rglob("*.py")):
        inside = path.relative_to(package)
        folder = ".".join(["meshlib", *inside.parts[:-1]])
        imports = Imports(folder)
        imports.visit(ast.parse(path.read_text(encoding="utf-8")))
        part = inside.parts[0].removesuffix(".py")
        if part.startswith("_") and part not in RANK and not part.startswith("__"):
            found.append(f"{inside}:1: {part} has no layer; a private part needs one in LAYERS")
        for line, module, name in imports.found:
            found.extend(f"{inside}:{line}: {sentence}" for sentence in judge(package, inside, module, name))
    return found + list(lonely(package))


def judge(package: Path, inside: Path, module: str, name: str | None) -> Iterator[str]:
    """Apply the rules to one import of the file ``inside`` the package."""
    part = inside.parts[0].removesuffix(".py")
    dotted = module if name is None else f"{module}.{name}"
    root, *rest = dotted.split(".")

    if root == "meshlib":
        target = (
            rest[0] if rest and ((package / rest[0]).is_dir() or (package / f"{rest[0]}.py").is_file()) else "facade"
        )
        here, there = RANK.get(part, FACADE), RANK.get(target, FACADE)
        if target != part and there >= here and here != FACADE:
            yield f"imports {dotted}: imports go down, and {part} stands beside or below {target}"
    elif part == "_core":
        if module == "random":
            if name != "Random":
                yield f"imports {dotted}: the core is given a Random, and asks the module for nothing else"
        elif root == "tenacity":
            if name not in STRATEGIES:
                yield f"imports {dotted}: of tenacity the core knows {', '.join(sorted(STRATEGIES))}"
        elif module not in PURE:
            yield f"imports {dotted}: the core may import {', '.join(sorted(PURE))}"

    private = any(step.startswith("_") and not step.startswith("__") for step in rest)
    if root == "grpc" and private and inside.parts[:2] != ("_adapt", "grpcio"):
        yield f"uses {dotted}: private names of grpc stand in _adapt/grpcio alone"
    if dotted.startswith("opentelemetry.sdk") and part not in ("telemetry", "testing"):
        yield f"imports {dotted}: the SDK belongs to the application; telemetry.setup() alone may import it"


def lonely(package: Path) -> Iterator[str]:
    """Files that only one shell has: code that waits in one runtime waits in both."""
    files = {
        shell: {path.relative_to(package / shell) for path in (package / shell).rglob("*.py")} for shell in LAYERS[3]
    }
    for shell, twin in (("_sync", "_aio"), ("_aio", "_sync")):
        yield from (f"{shell}/{path}:1: has no twin {twin}/{path}" for path in sorted(files[shell] - files[twin]))


def graph(package: Path) -> dict[str, set[str]]:
    """The modules of ``package``, each with the modules of ``package`` that it imports."""
    modules = {}
    for path in package.rglob("*.py"):
        parts = [package.name, *path.relative_to(package).with_suffix("").parts]
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    found: dict[str, set[str]] = {}
    for module, path in modules.items():
        imports = Imports(module if path.name == "__init__.py" else module.rpartition(".")[0])
        imports.visit(ast.parse(path.read_text(encoding="utf-8")))
        named = {f"{base}.{name}" if f"{base}.{name}" in modules else base for _, base, name in imports.found}
        found[module] = named & set(modules) - {module}
    return found


def circle(package: Path) -> list[str]:
    """Modules that import one another in a cycle; empty if there is none."""
    try:
        TopologicalSorter(graph(package)).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


AVAILABILITY = frozenset({"state", "ejection", "failing"})


def judgements(package: Path) -> list[str]:
    """Comparisons and tests of the state, ejection or failure of a host, as ``file:line``."""
    found = []
    for path in sorted((package / "_core").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare):
                asked = [node.left, *node.comparators]
            elif isinstance(node, ast.BoolOp):
                asked = node.values
            elif isinstance(node, ast.IfExp | ast.If | ast.While):
                asked = [node.test]
            elif isinstance(node, ast.UnaryOp):
                asked = [node.operand]
            elif isinstance(node, ast.comprehension):
                asked = node.ifs
            else:
                continue
            found.extend(
                f"{path.relative_to(package)}:{one.lineno}"
                for one in asked
                if isinstance(one, ast.Attribute) and one.attr in AVAILABILITY and ast.unparse(one.value) in HOSTS
            )
    return sorted(found)


HOSTS = frozenset({"host", "h", "known", "attempt.host", "outlier.host"})
"""Names of hosts in the core."""


def test_the_availability_of_hosts_is_judged_in_one_place() -> None:
    """Only ``_core/host.py`` compares whether a host is connected, failing or ejected."""
    assert judgements(PACKAGE) == []


def test_judgements_elsewhere_are_found(tmp_path: Path) -> None:
    """Comparisons, negations and conditions are found."""
    (tmp_path / "_core").mkdir()
    lines = [
        "a = host.state == READY",
        "if host.failing: pass",
        "b = not h.ejection",
        "c = [h for h in d if h.failing]",
    ]
    (tmp_path / "_core" / "bad.py").write_text("\n".join([*lines, "state = host.state", "e = host.ejected and f"]))
    assert judgements(tmp_path) == [f"_core/bad.py:{line}" for line in (1, 2, 3, 4)]


def test_the_package_keeps_its_layers() -> None:
    """No file of the package breaks a rule."""
    assert breaches(PACKAGE) == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Imports for types count too: a Protocol describes what is needed of the other side."""
    assert circle(PACKAGE) == []


def test_circles_are_found(tmp_path: Path) -> None:
    """A cycle that only type checkers follow is found too."""
    package = tmp_path / "meshlib"
    package.mkdir()
    (package / "__init__.py").write_text("from meshlib.a import f")
    (package / "a.py").write_text("from meshlib import b")
    (package / "b.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from meshlib.a import f")
    assert sorted(set(circle(package))) == ["meshlib.a", "meshlib.b"]


CLEAN = {
    "__init__.py": "from meshlib._sync.channel import channel\nfrom meshlib import aio",
    "aio.py": "import meshlib\nfrom meshlib._aio import channel",
    "telemetry.py": "def setup():\n    from opentelemetry.sdk.trace import TracerProvider",
    "_core/__init__.py": "",
    "_core/call.py": "from random import Random\nfrom collections.abc import Callable\nfrom . import status\n"
    "from tenacity import wait_base\nfrom meshlib._core.status import Code",
    "_core/status.py": "import math",
    "_adapt/grpcio/sync.py": "import grpc\nimport grpc.aio\nmake = grpc._channel.Channel, grpc.aio._channel.Channel",
    "_control/cluster_driver.py": "import asyncio\nfrom meshlib._adapt import grpcio\nfrom meshlib._core import call",
    "_sync/channel.py": "import threading, grpc\nfrom meshlib._control import timers\ngrpc.__version__",
    "_aio/channel.py": "from meshlib import telemetry\nfrom ..telemetry import setup",
}


def planted(folder: Path, path: str, source: str) -> list[str]:
    """The breaches in a clean small package after ``source`` is appended to one of its files."""
    for name, text in CLEAN.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text + "\n", encoding="utf-8")
    if path:
        with (folder / path).open("a", encoding="utf-8") as file:
            file.write(source + "\n")
    return breaches(folder)


def test_a_clean_package_passes(tmp_path: Path) -> None:
    """Allowed imports are not reported."""
    assert planted(tmp_path, "", "") == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("_core/call.py", "import time"),
        ("_core/call.py", "import time as math"),
        ("_core/call.py", "def f():\n    from threading import Lock"),
        ("_core/call.py", "if TYPE_CHECKING:\n    import grpc"),
        ("_core/call.py", "class C:\n    def f(self):\n        import asyncio.events"),
        ("_core/call.py", "from urllib import request"),
        ("_core/call.py", "__import__('socket')"),
        ("_core/call.py", "import importlib"),
        ("_core/call.py", "import dns.resolver"),
        ("_core/call.py", "from opentelemetry import trace"),
        ("_core/call.py", "import random"),
        ("_core/call.py", "from random import random"),
        ("_core/call.py", "from random import Random, SystemRandom"),
        ("_core/call.py", "import tenacity"),
        ("_core/call.py", "from tenacity import Retrying"),
        ("_core/call.py", "from meshlib._adapt import grpcio"),
        ("_core/call.py", "from .._adapt import grpcio"),
        ("_core/call.py", "from meshlib import _sync"),
        ("_core/call.py", "import meshlib"),
        ("_adapt/grpcio/sync.py", "if TYPE_CHECKING:\n    from meshlib._control.cluster_driver import ClusterDriver"),
        ("_adapt/grpcio/sync.py", "from meshlib.telemetry import setup"),
        ("_control/cluster_driver.py", "from meshlib._sync.channel import channel"),
        ("_control/cluster_driver.py", "def f():\n    from meshlib import telemetry"),
        ("telemetry.py", "import meshlib._control.cluster_driver"),
        ("_sync/channel.py", "from meshlib._aio.channel import channel"),
        ("_aio/channel.py", "def f():\n    import meshlib._sync"),
        ("_aio/channel.py", "from meshlib import channel"),
        ("_aio/channel.py", "from .. import aio"),
        ("_sync/channel.py", "grpc._channel.Channel"),
        ("_sync/channel.py", "import grpc as g\ng.aio._channel.Channel()"),
        ("_aio/channel.py", "from grpc import aio as a\na._interceptor"),
        ("_aio/channel.py", "from grpc.aio._channel import Channel"),
        ("_control/cluster_driver.py", "from opentelemetry.sdk import trace"),
    ],
)
def test_a_planted_breach_is_found(tmp_path: Path, path: str, source: str) -> None:
    """Each rule catches every spelling of its breach, and reports it once, with file and line."""
    (breach,) = planted(tmp_path, path, source)
    lines = (tmp_path / path).read_text(encoding="utf-8").splitlines()
    file, line, _ = breach.split(":", 2)
    assert file == path
    assert int(line) > len(lines) - len(source.splitlines())


@pytest.mark.parametrize("path", ["_sync/calls.py", "_aio/inner/calls.py"])
def test_a_missing_twin_is_found(tmp_path: Path, path: str) -> None:
    """A file that only one shell has is reported, in a subfolder too."""
    (tmp_path / path).parent.mkdir(parents=True)
    (breach,) = planted(tmp_path, path, "")
    assert "has no twin" in breach
    assert breach.startswith(path)


def test_a_part_without_a_layer_is_found(tmp_path: Path) -> None:
    """A new private part must be assigned to a layer."""
    (tmp_path / "_extra").mkdir()
    (breach,) = planted(tmp_path, "_extra/a.py", "")
    assert "has no layer" in breach


def namesakes(package: Path) -> dict[str, list[str]]:
    """Classes of one name in several files, but for the twins of the shells and what both implement."""
    found: dict[str, list[str]] = {}
    for path in sorted(package.rglob("*.py")):
        part = path.relative_to(package).parts[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                protocol = any(ast.unparse(base).startswith("Protocol") for base in node.bases)
                found.setdefault(node.name, []).append("a protocol" if protocol else part)
    return {
        name: parts
        for name, parts in found.items()
        if len(parts) > 1 and (len(set(parts)) < len(parts) or not set(parts) <= {"_sync", "_aio", "a protocol"})
    }


def test_one_name_is_one_class() -> None:
    """A reader who meets a name has to look up one class."""
    assert namesakes(PACKAGE) == {}


def test_a_second_class_of_a_name_is_found(tmp_path: Path) -> None:
    """Twins of the shells, and a protocol that they implement, are none."""
    for path, source in {
        "_core/a.py": "class Subchannel(Protocol): ...\nclass Host: ...\n",
        "_sync/b.py": "class Subchannel: ...\n",
        "_aio/b.py": "class Subchannel: ...\n",
        "_control/c.py": "class Host: ...\n",
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(source)
    assert namesakes(tmp_path) == {"Host": ["_control", "_core"]}
