"""The faults, their places and times: drawn from a seed before anything runs, so that a seed repeats them."""

from dataclasses import dataclass
from random import Random
from typing import Final

PROCESS: Final = ("kill", "stop", "freeze", "flap")
"""Faults of a server: SIGKILL and a restart, SIGTERM and a restart, SIGSTOP and SIGCONT, two kills in a row."""
WIRE: Final = ("reset", "cut", "black hole", "slow", "refuse")
"""Faults of the relay before it: periodic RST, RST after some bytes of an answer, nothing gets through, each packet
late, RST to each new connection."""
NAMES: Final = ("SERVFAIL", "NXDOMAIN", "empty", "silent", "wrong")
"""Faults of DNS: the last names addresses without a server, beside the right ones or in their place."""
GOAWAY: Final = "goaway"
"""A further host is named, which answers its first call with GOAWAY and is gone."""

DNS: Final = -1
"""Place of a DNS fault: not a host."""

BALANCERS: Final = ("round_robin", "least_request", "random", "pick_first")


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault."""

    kind: str
    where: int
    """The number of the host, or ``DNS``."""
    at: float
    until: float
    """Seconds since the beginning of the epoch."""
    amount: int
    """Bytes of a cut; milliseconds of latency or between resets."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """Some seconds of faults, at the end of which everything is healed.

    With a ``guardian``, that host is healthy and in DNS. Without one everything may be down at once, and is once.
    """

    guardian: int | None
    seconds: float
    faults: tuple[Fault, ...]

    def kinds(self) -> set[str]:
        """The kinds that occur."""
        return {fault.kind for fault in self.faults}

    def of(self, where: int) -> list[Fault]:
        """The faults of one host, or of DNS, in their order; they do not overlap."""
        return [fault for fault in self.faults if fault.where == where]


@dataclass(frozen=True, slots=True)
class Schedule:
    """The faults of a whole run."""

    balancer: str
    epochs: tuple[Epoch, ...]


def draw(rng: Random, *, hosts: int, wired: int, epochs: int, seconds: float) -> Schedule:
    """Draw a schedule.

    Args:
        rng: the same state gives the same schedule.
        hosts: number of hosts.
        wired: number of hosts, the first, with a relay before them, so that they can have its faults.
        epochs: number of epochs; every third has no guardian.
        seconds: period in which faults begin, in each epoch.
    """
    drawn = []
    for number in range(epochs):
        guardian = rng.randrange(hosts) if number % 3 != 2 else None
        faults: list[Fault] = []
        for host in range(hosts):
            if host == guardian:
                continue
            kinds = (*PROCESS, *WIRE) if host < wired else PROCESS
            if guardian is None and number % 2 == 0:
                faults.append(Fault("kill", host, 0.2, seconds, 0))  # all of them, together
            else:
                faults += _in_turn(rng, kinds, host, seconds)
        faults += _in_turn(rng, (*NAMES, GOAWAY), DNS, seconds)
        drawn.append(Epoch(guardian, seconds, tuple(faults)))
    return Schedule(rng.choice(BALANCERS), tuple(drawn))


def _in_turn(rng: Random, kinds: tuple[str, ...], where: int, seconds: float) -> list[Fault]:
    faults = []
    at = rng.uniform(0.0, 0.3)
    while at < seconds:
        until = at + rng.uniform(0.2, 0.8)
        faults.append(Fault(rng.choice(kinds), where, at, until, rng.choice((1, 20, 60, 300, 3000, 20000))))
        at = until + rng.uniform(0.1, 0.4)
    return faults
