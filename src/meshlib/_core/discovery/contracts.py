"""Interface of resolvers."""

from collections.abc import Awaitable
from typing import Protocol, runtime_checkable

from meshlib._core.endpoint import Resolution

__all__ = ["Resolver"]


@runtime_checkable
class Resolver(Protocol):
    """Interface of a resolver: returns the endpoints of one target.

    A plain ``def`` runs in a worker thread, an ``async def`` on an event loop. Both serve sync and asyncio channels.
    """

    def resolve(self, previous: Resolution | None) -> Resolution | Awaitable[Resolution]:
        """Return the current endpoints.

        Args:
            previous: the last answer; None at first. A long poll or a watch may wait until the answer differs from it;
                a DNS query ignores it.

        Raises:
            Exception: any; the channel keeps its last good endpoints and retries after a backoff.
        """
        ...
