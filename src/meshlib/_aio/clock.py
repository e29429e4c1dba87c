"""Loops, randomness and locks of the asyncio shell, in one place so that tests can replace them."""

import asyncio
import random
import threading
from contextlib import AbstractContextManager
from typing import Any

__all__ = ["CLOCK", "Clock"]


class Clock:
    """The real loops and locks. Time is the loop's own, so it is not part of this."""

    def rng(self) -> random.Random:
        """The generator for jitter and random choices."""
        return random.Random()

    def lock(self) -> AbstractContextManager[Any]:
        """A lock that is not re-entrant; one of threads, because metric readers are threads."""
        return threading.Lock()

    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of a call: the running one, else the current one, as in grpc.aio.

        Raises:
            RuntimeError: there is none.
        """
        try:
            return asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.get_event_loop()


CLOCK = Clock()
