"""Only the core writes the state of calls and attempts, as the syntax trees show.

A shell or telemetry that wrote it would take part in the decisions of the machine, where neither the machine's tests
nor a reader of the machine would look for it. Commands and events, which leave the machine, are immutable.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "meshlib"

RECORDS = {"call_record.py": "CallRecord", "call.py": "Call", "hedged.py": "HedgedCall", "attempt.py": "AttemptRecord"}
"""Classes of the core with the state of a call or an attempt, by file."""

SHELLS_OWN = frozenset({"waker"})
"""Attributes of a call that its shell sets."""

GRPCS = ("_adapt", "grpcio")
"""Folder of code that handles grpc's own state of a call, with attributes of the same names."""


def attributes(tree: ast.Module, name: str) -> set[str]:
    """Names of the attributes of a class: declared in its body, or assigned by its methods."""
    (found,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    declared = {name_of(node.target) for node in found.body if isinstance(node, ast.AnnAssign)}
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
    found: list[str] = []
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


VALUES = ("commands.py", "events.py")
"""Files of the core whose classes are values."""


def mutable(tree: ast.Module) -> list[str]:
    """Classes that are not values, with the reason: neither a frozen dataclass with slots, nor a final class with slots
    whose attributes are ``Final`` and set by its constructor. Protocols, which have no instances, are left out."""
    found = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and "Protocol" not in map(ast.unparse, node.bases):
            decorators = [ast.unparse(each) for each in node.decorator_list]
            if not any(each.startswith("dataclass(frozen=True, slots=True") for each in decorators):
                found.extend(f"{node.name}: {reason}" for reason in unsafe(node, decorators))
    return found


def unsafe(node: ast.ClassDef, decorators: list[str]) -> Iterator[str]:
    """Reasons why instances of a class that is not a dataclass may change."""
    if decorators != ["final"]:
        yield "not final"
    if "__slots__" not in {ast.unparse(each.targets[0]) for each in node.body if isinstance(each, ast.Assign)}:
        yield "no slots"
    for each in node.body:
        initial = isinstance(each, ast.FunctionDef) and each.name == "__init__"
        once = {
            ast.unparse(inner.target)
            for inner in ast.walk(each)
            if initial and isinstance(inner, ast.AnnAssign) and ast.unparse(inner.annotation) == "Final"
        }
        for store in stores(each):
            if ast.unparse(store) not in once:
                yield f"{ast.unparse(store)} is assigned, and not Final in the constructor"


@pytest.mark.parametrize("file", VALUES)
def test_commands_and_events_are_values(file: str) -> None:
    """The interpreter rejects a change of an event; the type checker rejects one of a command, for a ``Final``."""
    assert mutable(parsed(PACKAGE / "_core" / file)) == []


VALUE = """
@final
class Open:
    __slots__ = ("host",)
    def __init__(self, host):
        self.host: Final = host
"""


def test_values_pass() -> None:
    """A class with final attributes, a dataclass and a protocol are not reported."""
    others = "@dataclass(frozen=True, slots=True, kw_only=True)\nclass A:\n    n: int\nclass B(Protocol):\n    n: int\n"
    assert mutable(ast.parse(VALUE + others)) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("@final", ""),
        ("@final", "@dataclass(slots=True)"),
        ('    __slots__ = ("host",)\n', ""),
        ("self.host: Final = host", "self.host = host"),
        ("self.host: Final = host", "self.host: HostEntry = host"),
        ("__init__", "change"),
    ],
)
def test_a_planted_mutable_command_is_found(old: str, new: str) -> None:
    """Each way in which an instance may change is found once."""
    (found,) = mutable(ast.parse(VALUE.replace(old, new)))
    assert found.startswith("Open: ")
