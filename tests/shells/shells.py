"""The unmodified shells, as the worlds run them."""

from collections.abc import Callable
from functools import partial
from importlib import import_module

from tests.shells import aio_world, sync_world
from tests.shells.script import Script
from tests.shells.trace import Entry

__all__ = ["WORLDS", "real"]

WORLDS = {"sync": sync_world, "aio": aio_world}


def real(shell: str) -> Callable[[Script], list[Entry]]:
    """A function that runs scripts on the real ``"sync"`` or ``"aio"``."""
    world = WORLDS[shell]
    modules = (import_module(f"meshlib._{shell}.{name}") for name in ("channel", "control"))
    return partial(world.run, shell=world.Shell(*modules))
