"""The start of a channel in a process that is out of file descriptors or threads: an error of the call, and no loss."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from typing import Any, Final

from meshlib._core.status import Outcome, local
from meshlib._core.view import CallMesh

__all__ = ["Shortage", "short_of", "starting"]

DESCRIPTORS: Final = 16
"""What the control thread and C-core open when they start. C-core ends the process if it cannot."""


REFUSED: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.EAGAIN, errno.EPERM, errno.EACCES}
)
"""What the operating system says then; the last two in a sandbox."""


class Shortage(Exception):  # noqa: N818 - the shells make the RpcError of it
    """A channel could not start; nothing was sent.

    Args:
        error: what the operating system said.
    """

    def __init__(self, error: BaseException) -> None:
        details = f"the channel failed to start: {error}; the process is out of {short_of(error)}"
        super().__init__(details)
        self.outcome: Outcome = local("UNAVAILABLE", details)
        unstarted: Any = _Unstarted()
        self.mesh = CallMesh(unstarted, self.outcome)


class _Unstarted:
    """What a call that never began has of a call."""

    attempts: tuple[()] = ()
    begun = 0.0
    verdict = "the channel failed to start"


@contextmanager
def starting(*, first: bool) -> Iterator[None]:
    """Starts a channel; ``first``: C-core may start with it.

    Other errors are raised as they are: a signal handler may raise any, ``TimeoutError`` for one, which is an
    ``OSError``.

    Raises:
        Shortage: a descriptor or a thread was missing.
    """
    try:
        if first:
            _check()
        yield
    except (OSError, RuntimeError) as error:
        if not short_of(error):
            raise
        raise Shortage(error) from error


def short_of(error: BaseException) -> str:
    """What the operating system, or the interpreter that exits, refused; empty: ``error`` is none of that kind."""
    if isinstance(error, OSError):
        return "file descriptors, see ulimit -n" if error.errno in REFUSED else ""
    text = str(error)
    if isinstance(error, RuntimeError) and ("new thread" in text or text == "Event loop is closed"):
        return "threads or memory, see ulimit -u"
    return ""


def _check() -> None:
    """Whether there are as many free descriptors as it takes."""
    held: list[FileIO] = []  # not numbers: if a signal handler raises in the middle, the rest close themselves
    try:
        while len(held) < DESCRIPTORS:
            held.append(FileIO(os.devnull))
    finally:
        for descriptor in held:
            descriptor.close()
