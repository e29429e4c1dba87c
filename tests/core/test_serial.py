"""Steps that run in the middle of others, and sections without an interruption point."""

import ast
import dis
import threading
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Final

import pytest
from tests.interruption import PLAIN

import meshlib
from meshlib._core.serial import WorkSerializer

SOURCES = Path(meshlib.__file__).parent
MARK: Final = "# uninterrupted"


def codes(code: CodeType) -> Iterator[CodeType]:
    """A code object, and all those nested in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes(constant)


def marked(text: str) -> set[int]:
    """The lines with the marker."""
    return {number for number, line in enumerate(text.splitlines(), 1) if line.rstrip().endswith(MARK)}


def interrupted(text: str) -> list[str]:
    """Instructions of marked lines at which an interruption can happen."""
    lines = marked(text)
    return [
        f"line {instruction.positions.lineno}: {instruction.opname}"
        for code in codes(compile(text, "<text>", "exec"))
        for instruction in dis.get_instructions(code)
        if instruction.positions is not None
        and instruction.positions.lineno in lines
        and instruction.opname not in PLAIN
    ]


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(SOURCES.rglob("*.py")) if marked(path.read_text())],
    ids=lambda path: str(path.relative_to(SOURCES)),
)
def test_nothing_comes_between_lines_that_say_so(path: Path) -> None:
    """Marked lines make no call and no jump back, and allocate no container."""
    assert interrupted(path.read_text()) == []


@pytest.mark.parametrize("line", ["f()", "a = [b]", "a = b, c, d, e", "a = lambda: b", "a = b[c]", "with a: pass"])
def test_what_may_be_interrupted_is_found(line: str) -> None:
    """Calls, containers and subscripts are found."""
    ast.parse(line)
    assert interrupted(f"{line}  {MARK}")


def test_a_step_in_the_middle_of_another_is_left_to_it() -> None:
    """A nested step runs after the outer one, and so do steps nested in it."""
    serializer = WorkSerializer()
    ran: list[str] = []

    def third() -> None:
        ran.append("third")

    def second() -> str:
        assert serializer.run(third, None) is None
        ran.append("second")
        return "done"

    def first() -> str:
        assert serializer.inside
        assert serializer.run(second, "later") == "later"
        assert serializer.run(second, "never", later=False) == "never"
        ran.append("first")
        return "done"

    assert serializer.run(first, "later") == "done"
    assert ran == ["first", "second", "third"]
    assert not serializer.inside
    assert not serializer.torn


def test_a_step_that_raises_leaves_nothing_shut() -> None:
    """The step is marked as incomplete, and queued steps run with the next one."""
    serializer = WorkSerializer()
    ran: list[str] = []

    def first() -> None:
        serializer.run(lambda: ran.append("second"), None)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        serializer.run(first, None)
    assert serializer.torn
    assert ran == []
    serializer.run(lambda: ran.append("third"), None)
    assert ran == ["third", "second"]


def test_another_thread_waits_for_a_step_and_not_for_long() -> None:
    """With patience it runs its step itself; without, it leaves the step to the other thread."""

    class Patient:
        """Waits for the other thread to leave, or does not."""

        def __init__(self) -> None:
            self.patient = True
            self.pauses = 0

        def ident(self) -> int:
            return threading.get_ident()

        def pause(self, turn: int) -> bool:
            assert turn == self.pauses
            self.pauses += 1
            if self.patient:
                leave.set()
                assert left.wait(10.0)
            return self.patient

    threads = Patient()
    serializer = WorkSerializer(threads)
    inside, leave, left = (threading.Event() for _ in range(3))
    ran: list[tuple[str, int]] = []

    def long() -> None:
        inside.set()
        assert leave.wait(10.0)

    def hold() -> None:
        serializer.run(long, None)
        left.set()

    def step(name: str) -> str:
        ran.append((name, threading.get_ident()))
        return name

    for patient in (True, False):
        for event in (inside, leave, left):
            event.clear()
        threads.patient, threads.pauses = patient, 0
        holder = threading.Thread(target=hold)
        holder.start()
        ident = holder.ident
        assert inside.wait(10.0)
        found = serializer.run(lambda: step("ran"), "left")
        leave.set()
        holder.join(10.0)
        assert found == ("ran" if patient else "left")
        assert threads.pauses == 1
        assert ran == [("ran", threading.get_ident() if patient else ident)]
        ran.clear()
