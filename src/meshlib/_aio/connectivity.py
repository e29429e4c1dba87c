"""Connectivity of a channel, and waits for its changes."""

import asyncio
from contextlib import suppress
from typing import Final, final

import grpc
import grpc.aio

from meshlib._core.connectivity import IDLE, SHUTDOWN

__all__ = ["CLOSED_CHANNEL", "STATES", "Connectivity"]

CLOSED_CHANNEL = "Channel is closed."
"""grpc.aio's text of the ``UsageError``, to the letter."""

STATES: Final = (
    grpc.ChannelConnectivity.IDLE,
    grpc.ChannelConnectivity.CONNECTING,
    grpc.ChannelConnectivity.READY,
    grpc.ChannelConnectivity.TRANSIENT_FAILURE,
    grpc.ChannelConnectivity.SHUTDOWN,
)


@final
class Connectivity:
    """The state, and the waits for another one, all on the channel's loop."""

    def __init__(self) -> None:
        self.state = IDLE
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def watched(self) -> bool:
        """Whether any task waits."""
        return bool(self._waiters)

    def changed(self, state: int) -> None:
        """Set the channel's state and wake the waiting tasks. SHUTDOWN is final."""
        if self.state == SHUTDOWN:
            return
        self.state = state
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def renew(self) -> None:
        """Reset for a channel that restarts on another loop or in another process, without the earlier waits."""
        self.state = IDLE
        self._waiters = []

    async def left(self, state: grpc.ChannelConnectivity) -> None:
        """Wait until the channel is in another state than ``state``.

        Raises:
            grpc.aio.UsageError: the channel is closed already.
        """
        if self.state == SHUTDOWN:
            raise grpc.aio.UsageError(CLOSED_CHANNEL)
        while STATES[self.state] is state:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                if STATES[self.state] is state:  # a signal handler may have closed the channel just now
                    await waiter
            finally:
                with suppress(ValueError):
                    self._waiters.remove(waiter)
