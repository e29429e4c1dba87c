"""The two shells implement one policy: a script has one trace on threads, on asyncio, and without a shell.

``MESHLIB_WORLDS=5000`` tries more worlds than usual; ``MESHLIB_WORLD=stream/123`` repeats the one named by a failure.
"""

import os
from collections.abc import Callable

import pytest
from tests.shells import machine, shells
from tests.shells.script import KINDS, Script
from tests.shells.trace import Entry, difference

WORLDS = int(os.environ.get("MESHLIB_WORLDS", "200"))
ONE = os.environ.get("MESHLIB_WORLD", "")

Run = Callable[[Script], list[Entry]]


def seeds(kind: str) -> range:
    """The seeds of the worlds to try."""
    if not ONE:
        return range(WORLDS)
    asked, _, seed = ONE.partition("/")
    return range(int(seed), int(seed) + (asked == kind))


def repeat(kind: str, seed: int) -> str:
    """The command that repeats one world."""
    return f"MESHLIB_WORLD={kind}/{seed} python -m pytest tests/shells/test_traces.py"


@pytest.mark.timeout(900 if WORLDS > 200 else 60)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shell", ["sync", "aio"])
def test_a_shell_does_what_the_machines_say(shell: str, kind: str) -> None:
    """Every world has the trace of the machines alone, to the last moment and the last bit."""
    run: Run = shells.real(shell)
    for seed in seeds(kind):
        script = Script(kind, seed)
        try:
            found = run(script)
        except AssertionError as error:
            pytest.fail(f"{error}\n{repeat(kind, seed)}")
        parted = difference("machine", machine.run(script), shell, found)
        if parted:
            pytest.fail(f"{parted}\n{repeat(kind, seed)}", pytrace=False)


@pytest.mark.parametrize("kind", KINDS)
def test_the_worlds_are_worth_running(kind: str) -> None:
    """The worlds of each kind include every way to end, waits and retries: empty traces prove nothing."""
    met = {entry[2:4] for seed in range(150) for entry in machine.run(Script(kind, seed))}
    codes = ("OK", "UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "CANCELLED", "closed")
    wanted = {("result", code) for code in codes}
    wanted |= {("event", stage) for stage in ("pick", "in_flight", "load", "retry")}
    assert met >= wanted, wanted - met
