"""Picker of one membership, guarded against failing plug-ins.

A picker may be the application's own. Its failures (exceptions, a pick that is not one of its hosts, endless rebuilds)
are reported once, and round robin is used instead. They never fail a call.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Final, Protocol, final

from meshlib._core.balancing.builtin import BuiltinPicker
from meshlib._core.balancing.contracts import Balancer, Picker, PickInfo, Report
from meshlib._core.balancing.priorities import Spread, Tier
from meshlib._core.balancing.round_robin import RoundRobin
from meshlib._core.connectivity import READY
from meshlib._core.events import ChannelEvent, PluginFailed
from meshlib._core.host import HostEntry

__all__ = ["Asking", "PickerSnapshot"]

ASKS: Final = (1, 2, 3, 4)
"""Maximum picks while the picker picks hosts that were tried, or have lost their connection; then the other hosts are
searched. Envoy's ``previous_hosts`` picks twice and then uses the same host again."""

REST: Final = 0.1
"""Minimum seconds before a picker may be stale."""


class Usable(Protocol):
    """Check whether a call can be sent to a host now."""

    def __call__(self, host: HostEntry, *, now: float) -> bool:
        """Read the state of its connection."""
        ...


class Run(Protocol):
    """Runs a serialized step of the channel."""

    def __call__(self, step: Callable[[], object], otherwise: object, *, later: bool) -> object:
        """Return the result of ``step``, or ``otherwise`` if another step is running. With ``later=False`` the step is
        then dropped."""
        ...


class Asking(PickInfo, Protocol):
    """Call that needs a host, and its policy for hosts that were tried."""

    @property
    def reselections(self) -> int | None:
        """Number of further picks before a host that was tried is used again; None: never, while there is
        another."""
        ...


@final
class PickerSnapshot:
    """Hosts of one membership, at least one, and their pickers, one per tier.

    Built-in pickers that are :attr:`reentrant` pick directly: one pick may interrupt another. Others pick in serialized
    steps of the channel; a pick that interrupts such a step uses round robin.

    Args:
        balancer: makes the pickers.
        tiers: hosts that can be picked.
        rng: for the pickers.
        events: receives failures; None: they are not recorded.
        now: monotonic seconds.
        run: runs a serialized step of the channel. The control plane performs the commands of steps that were queued
            for this thread meanwhile.
    """

    __slots__ = (
        "_choose",
        "_events",
        "_forced",
        "_listeners",
        "_made_at",
        "_members",
        "_name",
        "_ours",
        "_pick",
        "_pickers",
        "_run",
        "_tiers",
        "_told",
        "_turn",
        "listens",
        "panic",
    )

    def __init__(
        self,
        balancer: Balancer,
        tiers: Sequence[Tier[HostEntry]],
        *,
        rng: Random,
        events: deque[ChannelEvent] | None,
        now: float,
        run: Run,
    ) -> None:
        self._run = run
        self._name = type(balancer).__name__
        self._tiers = tiers
        self._members = frozenset(host for tier in tiers for host in tier.hosts)
        self.panic = tuple(tier.priority for tier in tiers if tier.panic)
        """Priorities in panic: ejected hosts are used too."""
        self._forced = frozenset(h for tier in tiers if tier.panic for h in tier.hosts if h.ejected)
        """Ejected hosts that are used."""
        self._events = events
        self._made_at = now
        self._told: set[str] = set()
        self._turn = 0
        self._pickers = {tier.priority: self._make(balancer, tier.hosts, rng, now) for tier in tiers}
        pickers = list(self._pickers.values())
        chooser = pickers[0]
        if len(tiers) > 1:
            chooser = Spread([(tier.percent, self._pickers[tier.priority]) for tier in tiers], rng)
        self._choose: Callable[..., object] = chooser.pick
        reentrant = all(isinstance(picker, BuiltinPicker) and picker.reentrant for picker in pickers)
        self._pick: Callable[..., object] = chooser.pick if reentrant else self._pick_serialized
        self._ours = all(isinstance(picker, BuiltinPicker) for picker in pickers)
        self._listeners = [picker for picker in pickers if _overrides(picker, "done")]
        self.listens = bool(self._listeners)
        """Whether a picker implements ``done``."""

    def pick(self, call: Asking, usable: Usable, now: float) -> HostEntry | None:
        """Pick a usable host, one not in ``call.tried`` if possible. None: the picker queues the call, or there is no
        such host."""
        tried = call.tried
        left = call.reselections if tried else None
        for _ in ASKS if left is None else range(left + 1):
            host = self._pick(call, now=now)
            if type(host) is not HostEntry or host not in self._members:
                if host is None:
                    return None
                if host is not _NOBODY:
                    self._failed("pick", f"returned {host!r}, not one of its hosts", now)
                break
            subchannel = host.subchannel
            # Fast path, inlined: nearly always it is connected, and known to be.
            try:
                ready = (
                    subchannel is not None and not host.removed and host.connected and subchannel.state(True) == READY
                )
            except ValueError:
                ready = False  # closed meanwhile
            if (
                (ready or usable(host, now=now))
                and (not host.ejected or host in self._forced)
                and (left == 0 or host not in tried)
            ):
                return host
            left = None if left is None else left - 1
        return self._search(call, usable, now)

    def _pick_serialized(self, call: Asking, *, now: float) -> object:
        return self._run(partial(self._pick_guarded, call, now), _NOBODY, later=False)

    def _pick_guarded(self, call: Asking, now: float) -> object:
        try:
            return self._choose(call, now=now)
        except Exception as error:
            if self._ours:
                raise  # built-in pickers never raise: it comes from a signal handler of the application
            self._failed("pick", error, now)
            return _NOBODY

    def report(self, host: HostEntry, code: str, seconds: float, *, now: float) -> None:
        """Report the end of an attempt to the pickers that implement ``done``."""
        told = Report(code=code, seconds=seconds)
        for picker in self._listeners:
            try:
                picker.done(host, told, now=now)
            except Exception as error:  # noqa: BLE001 - a plug-in's failure must not be a call's
                self._failed("done", error, now)

    def adopt(self, previous: "PickerSnapshot", *, now: float) -> None:
        """Let the picker of each tier take over the state of its predecessor."""
        for priority, picker in self._pickers.items():
            before = previous._pickers.get(priority)
            if type(picker) is not type(before) or not _overrides(picker, "adopt"):
                continue
            try:
                picker.adopt(before, now=now)
            except Exception as error:  # noqa: BLE001 - a plug-in's failure must not be a channel's
                self._failed("adopt", error, now)

    def stale_at(self, *, now: float) -> float:
        """Monotonic second at which a picker must be rebuilt; infinite: never."""
        first = math.inf
        for picker in self._pickers.values():
            at: object = getattr(picker, "stale_at", math.inf)
            if isinstance(at, int | float) and not math.isnan(at):
                first = min(first, max(at, self._made_at + REST))
            else:
                self._failed("stale_at", f"is {at!r}, not a point in time", now)
        return first

    def _search(self, call: PickInfo, usable: Usable, now: float) -> HostEntry | None:
        """Round robin over the usable hosts, tier by tier: the first one not tried, else any."""
        tried = call.tried
        again = None
        self._turn += 1  # uninterrupted
        for tier in self._tiers:
            size = len(tier.hosts)
            for step in range(size):
                host = tier.hosts[(self._turn + step) % size]
                if not usable(host, now=now) or (host.ejected and host not in self._forced):
                    continue
                if host not in tried:
                    return host
                again = again or host
        return again

    def _make(self, balancer: Balancer, hosts: tuple[HostEntry, ...], rng: Random, now: float) -> Picker:
        try:
            picker: object = balancer.picker(hosts, rng=rng)
        except Exception as error:  # noqa: BLE001 - a plug-in's failure must not be a channel's
            self._failed("picker", error, now)
        else:
            if callable(getattr(picker, "pick", None)):
                return picker  # type: ignore[return-value]  # only pick is required
            self._failed("picker", f"returned {picker!r}, an object without pick()", now)
        return RoundRobin().picker(hosts, rng=rng)

    def _failed(self, doing: str, error: object, now: float) -> None:
        if self._events is None or doing in self._told:
            return
        self._told.add(doing)
        self._events.append(
            PluginFailed(at=now, name=self._name, doing=doing, error=error, instead=_INSTEAD.get(doing, _IGNORED))
        )


_NOBODY: Final = object()
"""Instead of a host: the picker failed, or cannot be called now."""
_IN_TURN: Final = "round robin over the ready hosts"
_IGNORED: Final = "the channel continues without it"
_INSTEAD: Final = {"picker": _IN_TURN, "pick": _IN_TURN}


def _overrides(picker: Picker, method: str) -> bool:
    """Whether a picker overrides an optional method of the contract."""
    own = getattr(type(picker), method, None)
    return own is not None and own is not getattr(Picker, method)
