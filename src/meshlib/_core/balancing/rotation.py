"""One membership and its picker: who is chosen, whatever the picker does.

A picker may be the user's own. What it does wrong (raises, names what is none of its hosts, wants to be rebuilt without
end) is told once, made good by taking each host in turn, and never takes a call down.
"""

import math
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Final, Protocol, final

from meshlib._core.balancing.contracts import Balancer, Picker, PickInfo, Report
from meshlib._core.balancing.round_robin import RoundRobin
from meshlib._core.events import ChannelEvent, PluginFailed
from meshlib._core.host import Host

__all__ = ["Rotation"]

ASKS: Final = (1, 2, 3, 4)
"""A picker that names a host the call has been to, or one that lost its connection, is asked again, this often in all;
then the rest are searched. Envoy's ``previous_hosts`` asks twice and then goes to the same host again."""

REST: Final = 0.1
"""Seconds a picker is in use at least before it may be stale."""


class Usable(Protocol):
    """Whether a call may be sent to a host at this moment."""

    def __call__(self, host: Host, *, now: float) -> bool:
        """Asks its connection."""
        ...


@final
class Rotation:
    """The hosts of one membership, at least one, and the picker made for them. Made off the channel's lock, used under
    it.

    Args:
        balancer: makes the picker.
        hosts: to choose from.
        rng: for the picker.
        events: takes what goes wrong; None: nobody listens.
        now: monotonic seconds.
    """

    __slots__ = ("_events", "_hosts", "_made_at", "_members", "_name", "_pick", "_picker", "_told", "_turn", "listens")

    def __init__(
        self,
        balancer: Balancer,
        hosts: tuple[Host, ...],
        *,
        rng: Random,
        events: deque[ChannelEvent] | None,
        now: float,
    ) -> None:
        self._name = type(balancer).__name__
        self._hosts = hosts
        self._members = frozenset(hosts)
        self._events = events
        self._made_at = now
        self._told: set[str] = set()
        self._turn = 0
        self._picker = self._make(balancer, rng, now)
        self._pick: Callable[..., object] = self._picker.pick
        self.listens = _overrides(self._picker, "done")
        """Whether the picker wants to know how attempts end."""

    def pick(self, call: PickInfo, usable: Usable, *, now: float) -> Host | None:
        """A host that is usable now: another than ``call.tried`` where there is one. None: the picker says wait, or
        there is none."""
        tried = call.tried
        for _ in ASKS:
            try:
                host = self._pick(call, now=now)
            except Exception as error:  # noqa: BLE001 - a plug-in's failure must not be a call's
                self._failed("pick", error, now)
                break
            if type(host) is not Host or host not in self._members:
                if host is None:
                    return None
                self._failed("pick", f"returned {host!r}, which is none of its hosts", now)
                break
            if host not in tried and usable(host, now=now):
                return host
        return self._search(call, usable, now)

    def report(self, host: Host, code: str, seconds: float, *, now: float) -> None:
        """An attempt ended: tells a picker that listens."""
        try:
            self._picker.done(host, Report(code=code, seconds=seconds), now=now)
        except Exception as error:  # noqa: BLE001 - a plug-in's failure must not be a call's
            self._failed("done", error, now)

    def adopt(self, previous: "Rotation", *, now: float) -> None:
        """Lets the picker carry over what the one before it knew."""
        if type(self._picker) is not type(previous._picker) or not _overrides(self._picker, "adopt"):
            return
        try:
            self._picker.adopt(previous._picker, now=now)
        except Exception as error:  # noqa: BLE001 - a plug-in's failure must not be a channel's
            self._failed("adopt", error, now)

    def stale_at(self, *, now: float) -> float:
        """When the picker wants to be rebuilt, monotonic second; infinite: never."""
        at: object = getattr(self._picker, "stale_at", math.inf)
        if isinstance(at, int | float) and not math.isnan(at):
            return max(at, self._made_at + REST)
        self._failed("stale_at", f"is {at!r}, which is no point in time", now)
        return math.inf

    def _search(self, call: PickInfo, usable: Usable, now: float) -> Host | None:
        """Each host in turn: one the call has not been to, else any."""
        tried = call.tried
        again = None
        size = len(self._hosts)
        self._turn += 1
        for step in range(size):
            host = self._hosts[(self._turn + step) % size]
            if not usable(host, now=now):
                continue
            if host not in tried:
                return host
            again = again or host
        return again

    def _make(self, balancer: Balancer, rng: Random, now: float) -> Picker:
        try:
            picker: object = balancer.picker(self._hosts, rng=rng)
        except Exception as error:  # noqa: BLE001 - a plug-in's failure must not be a channel's
            self._failed("picker", error, now)
        else:
            if callable(getattr(picker, "pick", None)):
                return picker  # type: ignore[return-value]  # only pick is required
            self._failed("picker", f"returned {picker!r}, which has no pick()", now)
        return RoundRobin().picker(self._hosts, rng=rng)

    def _failed(self, doing: str, error: object, now: float) -> None:
        if self._events is None or doing in self._told:
            return
        self._told.add(doing)
        self._events.append(
            PluginFailed(at=now, name=self._name, doing=doing, error=error, instead=_INSTEAD.get(doing, _IGNORED))
        )


_IN_TURN: Final = "calls are spread over the ready hosts in turn"
_IGNORED: Final = "it goes on without"
_INSTEAD: Final = {"picker": _IN_TURN, "pick": _IN_TURN}


def _overrides(picker: Picker, method: str) -> bool:
    """Whether a picker does something in an optional method, rather than inherit the contract's empty one."""
    own = getattr(type(picker), method, None)
    return own is not None and own is not getattr(Picker, method)
