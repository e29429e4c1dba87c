"""The start of a channel in a process that is out of file descriptors or threads: an error of the call, and no loss."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from meshlib._core.status import Outcome, local
from meshlib._core.view import CallMesh

__all__ = ["Shortage", "starting"]

DESCRIPTORS: Final = 16
"""What the control thread and C-core open when they start. C-core ends the process if it cannot."""


class Shortage(Exception):  # noqa: N818 - the shells make the RpcError of it
    """A channel could not start; nothing was sent.

    Args:
        error: what the operating system said.
    """

    def __init__(self, error: BaseException) -> None:
        what = "file descriptors, see ulimit -n" if isinstance(error, OSError) else "threads or memory, see ulimit -u"
        details = f"the channel could not start: {error}; the process is short of {what}"
        super().__init__(details)
        self.outcome: Outcome = local("UNAVAILABLE", details)
        unstarted: Any = _Unstarted()
        self.mesh = CallMesh(unstarted, self.outcome)


class _Unstarted:
    """What a call that never began has of a call."""

    attempts: tuple[()] = ()
    begun = 0.0
    verdict = "the channel could not start"


@contextmanager
def starting(*, first: bool) -> Iterator[None]:
    """Starts a channel; ``first``: C-core may start with it.

    Raises:
        Shortage: a descriptor or a thread was missing.
    """
    try:
        if first:
            _check()
        yield
    except (OSError, RuntimeError) as error:
        raise Shortage(error) from error


def _check() -> None:
    """Whether there are as many free descriptors as it takes."""
    held: list[int] = []
    try:
        while len(held) < DESCRIPTORS:
            held.append(os.open(os.devnull, os.O_RDONLY))
    finally:
        for descriptor in held:
            os.close(descriptor)
