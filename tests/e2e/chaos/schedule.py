"""What goes wrong, where and when: drawn from a seed before anything runs, so that a seed repeats it."""

from dataclasses import dataclass
from random import Random
from typing import Final

PROCESS: Final = ("kill", "stop", "freeze", "flap")
"""What a server can suffer: SIGKILL and a restart, SIGTERM and a restart, SIGSTOP and SIGCONT, two kills in a row."""
WIRE: Final = ("reset", "cut", "black hole", "slow", "refuse")
"""What the wire before it can: RST now and then, RST after some bytes of an answer, nothing gets through, each packet
late, RST to whoever connects."""
NAMES: Final = ("SERVFAIL", "NXDOMAIN", "empty", "silent", "wrong")
"""What DNS can: the last names addresses where there is no such server, beside the right ones or in their place."""
GOAWAY: Final = "goaway"
"""A further host is named, which answers its first call with GOAWAY and is gone."""

DNS: Final = -1
"""Where: not a host."""

BALANCERS: Final = ("round_robin", "least_request", "random", "pick_first")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong."""

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

    While there is a ``guardian``, that host is well, and DNS names it. Without one everything may be gone at once, and
    once is.
    """

    guardian: int | None
    seconds: float
    faults: tuple[Fault, ...]

    def kinds(self) -> set[str]:
        """What occurs."""
        return {fault.kind for fault in self.faults}

    def of(self, where: int) -> list[Fault]:
        """The faults of one host, or of DNS, in their order; they do not overlap."""
        return [fault for fault in self.faults if fault.where == where]


@dataclass(frozen=True, slots=True)
class Schedule:
    """A whole run."""

    balancer: str
    epochs: tuple[Epoch, ...]


def draw(rng: Random, *, hosts: int, wired: int, epochs: int, seconds: float) -> Schedule:
    """A schedule.

    Args:
        rng: the same state of it, the same schedule.
        hosts: how many there are.
        wired: how many of them, the first, have a relay before them and so can suffer what a wire can.
        epochs: how many; every third has no guardian.
        seconds: that faults begin in, in each epoch.
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
