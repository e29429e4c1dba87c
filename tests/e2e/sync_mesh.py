"""Shared helpers of the sync tests: a channel to given servers, and waits for other threads."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.waiting import until

import meshlib
from meshlib.testing import Server, echo

WAIT = 10.0  # seconds after which a wait fails


@contextmanager
def mesh(*some: Server, **options: Any) -> Iterator[meshlib.Channel]:
    """A channel to the servers, in their order."""
    with meshlib.channel("static:///" + ",".join(server.address for server in some), **options) as channel:
        yield channel


def idle(channel: Any) -> bool:
    """Whether no attempt is in flight, by either count."""
    runtime = channel._plain.lease.present
    return runtime is None or (runtime.cluster.in_flight == 0 and runtime.aside == 0)


def answered(channel: meshlib.Channel, *some: Server) -> None:
    """Call until each of the servers has answered: the picker follows a moment after a snapshot shows a connection."""
    call = channel.unary_unary(echo.UNARY)
    until(
        lambda: (
            call(b"x", timeout=WAIT, wait_for_ready=True) == b"x" and all(server.calls[echo.UNARY] for server in some)
        )
    )


def reported(call: Any) -> bool:
    """Whether the first attempt of a call has ended."""
    attempts = call.mesh.attempts
    return attempts != () and attempts[0].seconds is not None
