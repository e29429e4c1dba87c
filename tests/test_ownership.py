"""Who writes the state of calls and attempts, as read from the syntax trees: the core alone.

A shell or telemetry that wrote it would take part in the decisions of the machine, where neither the machine's tests
nor a reader of the machine would look for it.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "meshlib"

RECORDS = {"call_record.py": "CallRecord", "call.py": "Call", "hedged.py": "HedgedCall", "commands.py": "StartAttempt"}
"""Classes of the core with the state of a call or an attempt, by file."""

SHELLS_OWN = frozenset({"waker"})
"""Attributes of a call that its shell sets."""

GRPCS = ("_adapt", "grpcio")
"""Folder of code that handles grpc's own state of a call, with attributes of the same names."""


def attributes(tree: ast.Module, name: str) -> set[str]:
    """Names of the attributes of a class: declared in its body, or assigned by its methods."""
    (found,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    declared = {node.target.id for node in found.body if isinstance(node, ast.AnnAssign) and name_of(node.target)}
    return declared | {node.attr for node in stores(found) if name_of(node.value) == "self"}


def name_of(node: ast.expr) -> str:
    """Name of a variable; empty for any other expression."""
    return node.id if isinstance(node, ast.Name) else ""


def stores(tree: ast.AST) -> Iterator[ast.Attribute]:
    """Attributes that are assigned, changed or deleted anywhere in ``tree``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            yield node


def parsed(path: Path) -> ast.Module:
    """Syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def state() -> set[str]:
    """Attributes with the state of a call or an attempt."""
    return set().union(*(attributes(parsed(PACKAGE / "_core" / file), name) for file, name in RECORDS.items()))


def written(tree: ast.Module, owned: set[str]) -> list[str]:
    """Assignments to attributes in ``owned`` of other objects than ``self``, as ``line: target``."""
    found = [
        (node.lineno, ast.unparse(node))
        for node in stores(tree)
        if node.attr in owned and name_of(node.value) != "self"
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("setattr", "delattr", "__setattr__")):
            named = {each.value for each in node.args if isinstance(each, ast.Constant)}
            found.extend((node.lineno, ast.unparse(node)) for name in named if name in owned)
    return [f"{line}: {target}" for line, target in sorted(found)]


def test_the_core_alone_writes_the_state_of_calls() -> None:
    """Shells and telemetry give inputs to a call; only its waker is theirs."""
    owned = state() - SHELLS_OWN
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        inside = path.relative_to(PACKAGE)
        if inside.parts[0] != "_core" and inside.parts[:2] != GRPCS:
            found.extend(f"{inside}:{each}" for each in written(parsed(path), owned))
    assert found == []


def test_the_state_is_known() -> None:
    """Attributes are found that are declared, that have defaults, and that only constructors assign."""
    assert {"begun", "reading", "observer", "deadline", "_flying", "_hedges", "outcome", "seconds", "host"} <= state()


@pytest.mark.parametrize(
    "line",
    [
        "call.begun = 1.0",
        "self.call.begun: float = 1.0",
        "call.attempts[0].begun += 1",
        "self._call.x, call.begun = 1, 2",
        "del call.begun",
        "for call.begun in (): pass",
        "setattr(call, 'begun', 1)",
        "object.__setattr__(call, 'begun', 1)",
    ],
)
def test_a_planted_assignment_is_found(line: str) -> None:
    """Each form of an assignment is found once."""
    (found,) = written(ast.parse(f"a = call.begun\nself.begun = 1\n{line}\n"), {"begun"})
    assert found.startswith("3: ")
