"""The contract between a channel and whatever names the endpoints of its target."""

from collections.abc import Awaitable
from typing import Protocol, runtime_checkable

from meshlib._core.endpoint import Resolution

__all__ = ["Resolver"]


@runtime_checkable
class Resolver(Protocol):
    """Names the endpoints of one target. A plain ``def`` runs in a worker thread, an ``async def`` on an event loop;
    both fit channels of either kind."""

    def resolve(self, previous: Resolution | None) -> Resolution | Awaitable[Resolution]:
        """The endpoints now.

        Args:
            previous: the last answer, or None at first. With it the resolver may wait until the answer differs: a DNS
                query ignores it, a long poll or a watch uses it.

        Raises:
            Exception: any; the channel keeps its last good endpoints, backs off and asks again.
        """
        ...
