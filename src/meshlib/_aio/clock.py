"""Where the asyncio shell gets loops, chance and locks from: one place, so a test can put another world there."""

import asyncio
import random
import threading
from contextlib import AbstractContextManager
from typing import Any

__all__ = ["CLOCK", "Clock"]


class Clock:
    """The real world. Time is the loop's own, so it is no part of it."""

    def rng(self) -> random.Random:
        """What draws jitter and lots."""
        return random.Random()

    def lock(self) -> AbstractContextManager[Any]:
        """A lock that is not re-entrant; one of threads, because metric readers are threads."""
        return threading.Lock()

    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop a call is made on: the running one, else the one that is current, as in grpc.aio.

        Raises:
            RuntimeError: there is none.
        """
        try:
            return asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.get_event_loop()


CLOCK = Clock()
