"""The two shells are one policy: performed by the machines alone, by threads and by asyncio, a script has one trace.

``MESHLIB_WORLDS=5000`` tries more worlds than usual; ``MESHLIB_WORLD=stream/123`` tries that one, as a failure says.
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
    """The worlds to try."""
    if not ONE:
        return range(WORLDS)
    asked, _, seed = ONE.partition("/")
    return range(int(seed), int(seed) + (asked == kind))


def repeat(kind: str, seed: int) -> str:
    """The command that shows one world again."""
    return f"MESHLIB_WORLD={kind}/{seed} python -m pytest tests/shells/test_traces.py"


@pytest.mark.timeout(900 if WORLDS > 200 else 60)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shell", ["sync", "aio"])
def test_a_shell_does_what_the_machines_say(shell: str, kind: str) -> None:
    """Every world has the trace that the machines alone give it, to the last moment and the last bit."""
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
    """Among the worlds of each kind every way to end is met, and waits and retries: traces of nothing prove nothing."""
    met = {entry[2:4] for seed in range(150) for entry in machine.run(Script(kind, seed))}
    codes = ("OK", "UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "CANCELLED", "closed")
    wanted = {("result", code) for code in codes}
    wanted |= {("event", stage) for stage in ("pick", "in_flight", "load", "retry")}
    assert met >= wanted, wanted - met
