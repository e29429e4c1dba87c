"""The start of a channel without file descriptors or threads: an error of the call, not a crash."""

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
"""Descriptors that the control thread and C-core open at start. C-core ends the process if it cannot."""


REFUSED: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.EAGAIN, errno.EPERM, errno.EACCES}
)
"""Error numbers of a shortage; the last two in a sandbox."""


class Shortage(Exception):  # noqa: N818 - the shells make the RpcError of it
    """A channel could not start; nothing was sent.

    Args:
        error: the operating system's.
    """

    def __init__(self, error: BaseException) -> None:
        details = f"the channel failed to start: {error}; the process is out of {short_of(error)}"
        super().__init__(details)
        self.outcome: Outcome = local("UNAVAILABLE", details)
        unstarted: Any = _Unstarted()
        self.mesh = CallMesh(unstarted, self.outcome)


class _Unstarted:
    """The call of a :class:`CallMesh` that never began."""

    attempts: tuple[()] = ()
    begun = 0.0
    verdict = "the channel failed to start"


@contextmanager
def starting(*, first: bool) -> Iterator[None]:
    """Start a channel; ``first``: C-core may start with it.

    Other errors pass unchanged: a signal handler may raise any, such as ``TimeoutError``, which is an ``OSError``.

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
    """Return the resource that the operating system or the exiting interpreter refused; empty: another error."""
    if isinstance(error, OSError):
        return "file descriptors, see ulimit -n" if error.errno in REFUSED else ""
    text = str(error)
    if isinstance(error, RuntimeError) and ("new thread" in text or text == "Event loop is closed"):
        return "threads or memory, see ulimit -u"
    return ""


def _check() -> None:
    """Raise OSError unless enough descriptors are free."""
    held: list[FileIO] = []  # not numbers: if a signal handler raises here, the rest close themselves
    try:
        while len(held) < DESCRIPTORS:
            held.append(FileIO(os.devnull))
    finally:
        for descriptor in held:
            descriptor.close()
