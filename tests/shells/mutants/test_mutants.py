"""The traces detect faults of a shell: every planted fault is caught, and a shell without one passes."""

from itertools import zip_longest

import pytest
from tests.shells import machine
from tests.shells.baton import DeadlockError
from tests.shells.mutants.aio_faults import AIO
from tests.shells.mutants.mutation import Mutant, planted
from tests.shells.mutants.sync_faults import SYNC
from tests.shells.script import Script
from tests.shells.shells import WORLDS
from tests.shells.trace import difference

SEEDS = 300
"""Worlds per kind to search for a fault."""

# A faulty shell may leave a loop open, a coroutine unawaited, or a thread still running.
pytestmark = [
    pytest.mark.shares_process_state,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

FAULTS = [
    pytest.param(shell, mutant, id=f"{shell}: {mutant}")
    for pair in zip_longest(SYNC, AIO)
    for shell, mutant in zip(("sync", "aio"), pair, strict=True)
    if mutant is not None
]


def caught(shell: str, mutant: Mutant, seeds: int = SEEDS) -> str:
    """How the worlds show the fault; empty if they do not."""
    with planted(shell, mutant) as faulty:
        for kind in mutant.kinds:
            for seed in range(seeds):
                try:
                    found = WORLDS[shell].run(Script(kind, seed), faulty)
                except AssertionError as error:
                    return f"{kind}/{seed} {type(error).__name__}: {error}"
                parted = difference("machine", machine.run(Script(kind, seed)), shell, found)
                if parted:
                    return f"{kind}/{seed}\n{parted}"
    return ""


@pytest.mark.parametrize(("shell", "mutant"), FAULTS)
def test_a_planted_fault_is_caught(shell: str, mutant: Mutant) -> None:
    """The shell's trace differs from the machines', or the world reports a broken rule."""
    how = caught(shell, mutant)
    print(how)  # noqa: T201 - pytest -s or -rP shows how each is caught
    assert how, f"{SEEDS} worlds of each of {mutant.kinds} do not show it"


@pytest.mark.parametrize("shell", ["sync", "aio"])
def test_a_shell_without_a_fault_is_not_caught(shell: str) -> None:
    """A copy in which only a comment is changed matches the machines."""
    harmless = Mutant(
        name="none", module="engine", old='__all__ = ["', new='# nothing\n__all__ = ["', kinds=("hedged",)
    )
    assert not caught(shell, harmless, seeds=30)


def test_a_fault_whose_place_is_gone_is_told() -> None:
    """A planted fault that no longer fits the source fails loudly instead of testing nothing."""
    gone = Mutant(name="gone", module="engine", old="no such source", new="", kinds=())
    with pytest.raises(LookupError, match="plant the same fault in the present code"):
        caught("sync", gone)


def test_a_deadlock_counts_as_an_assertion() -> None:
    """A deadlocked world counts as failed."""
    assert issubclass(DeadlockError, AssertionError)
