"""The locks inside grpc's channels: no exception leaves one locked, and a sweep waits for none."""

import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TypeVar

import grpc
import pytest

from meshlib._adapt import grpcio
from meshlib._adapt.grpcio import locks
from meshlib._adapt.options import DEFAULTS
from meshlib._core.connectivity import READY
from meshlib.testing import Server, echo

T = TypeVar("T")


class SoftTimeLimitError(Exception):
    """Stands for an exception of a signal handler."""


def elsewhere(ask: Callable[[], T]) -> T:
    """The result of ``ask`` on another thread."""
    answers: list[T] = []
    thread = threading.Thread(target=lambda: answers.append(ask()))
    thread.start()
    thread.join(10)
    assert answers, "it waits for a lock"
    return answers[0]


def raising(frame: FrameType, event: str, _: Any) -> Any:
    """A trace function that raises right after a condition is entered in Python, as a signal handler may."""
    if frame.f_code is not threading.Condition.__enter__.__code__:
        return None
    if event == "return":
        sys.settrace(None)
        raise SoftTimeLimitError
    return raising


def interrupted(channel: Any) -> bool:
    """Make a call that is interrupted right after it enters the condition of ``channel``; return whether it was."""
    call = channel.unary_unary(echo.UNARY)
    assert call(b"x", timeout=10) == b"x"
    tracing = sys.gettrace()
    sys.settrace(raising)
    try:
        call(b"x", timeout=10)
    except SoftTimeLimitError:
        return True
    finally:
        sys.settrace(tracing)
    return False


@pytest.fixture
def target() -> Iterator[str]:
    """The address of a server."""
    with Server() as server:
        yield f"ipv4:{server.address}"


def test_a_call_cannot_be_interrupted_where_its_channel_is_locked(target: str) -> None:
    """grpc's own can, and stays locked for every other thread. If that ever changes, ours is obsolete."""
    with grpc.insecure_channel(target) as bare:
        assert interrupted(bare)
        condition = locks._condition(bare)
        assert condition is not None
        assert elsewhere(grpcio.sync_glance(bare)) is None
        condition.release()
        assert elsewhere(grpcio.sync_glance(bare)) == READY
    with grpcio.channel(target, DEFAULTS, None, None) as ours:
        assert not interrupted(ours)
        assert elsewhere(grpcio.sync_glance(ours)) == READY


def test_a_sweep_does_not_wait_for_who_is_inside_a_channel(target: str) -> None:
    """The sweep gets no state then, and polls the connection the next time."""
    with grpcio.channel(target, DEFAULTS, None, None) as channel:
        call: Any = channel.unary_unary(echo.UNARY)
        assert call(b"x", timeout=10) == b"x"
        glance = grpcio.sync_glance(channel)
        condition = locks._condition(channel)
        assert condition is not None
        with condition:
            assert elsewhere(glance) is None
        assert elsewhere(glance) == READY


def test_a_fork_waits_for_who_looks_at_a_channel(target: str) -> None:
    """In the child no thread would release the lock. Once a fork is prepared, no poll begins."""
    looking, ended = threading.Event(), threading.Event()

    def ask(_: bool) -> int:
        looking.set()
        assert ended.wait(10)
        return READY

    with grpcio.channel(target, DEFAULTS, None, None) as channel:
        thread = threading.Thread(target=locks.glancing(channel, ask))
        thread.start()
        assert looking.wait(10)
        assert grpcio.glances.inside == 1
        ended.set()
        thread.join(10)
        assert grpcio.glances.inside == 0
        grpcio.glances.refused = True
        try:
            assert grpcio.sync_glance(channel)() is None
        finally:
            grpcio.glances.refused = False
