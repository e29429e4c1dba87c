"""The network of a world: connections, and what becomes of the attempts sent over them. It waits for nobody.

Whoever performs the script asks for a :class:`Link` per host and a :class:`Flight` per attempt, waits as it may, and
says how the flight ended. All of that goes into the trace.
"""

from collections.abc import Callable
from typing import final

from tests.shells.baton import SpinError
from tests.shells.script import METHOD, HostScript, Script, tick
from tests.shells.trace import Trace

from meshlib._adapt.options import native_target
from meshlib._core.connectivity import CONNECTING, IDLE, READY, TRANSIENT_FAILURE

__all__ = ["CANCELLED", "CLOSED", "REFUSED", "Flight", "Link", "Network"]

CANCELLED = "Locally cancelled by application!"
CLOSED = "Channel closed!"
REFUSED = "failed to connect to all addresses; last error: UNKNOWN: "

REFUSAL_SECONDS = 0.0003
RESET_SECONDS = 0.0002
CANCEL_SECONDS = 0.00005
"""Until grpc tells that a cancelled attempt has ended. To each of these a little is added that is the attempt's own:
what ends in one moment has no order, and in one order only does the same lot fall to the same call."""


@final
class Link:
    """The connection to one host, as C-core's round_robin keeps it: a function of time and of when it was asked for."""

    def __init__(self, host: HostScript, now: Callable[[], float]) -> None:
        self.host = host
        self._now = now
        self._state = IDLE
        self._next = float("inf")

    def state(self, connect: bool) -> int:
        """The connectivity now; with ``connect`` an idle one starts to connect."""
        now = self._now()
        while self._next <= now:
            self._advance(self._next)
        if connect and self._state == IDLE:
            self._connect(now)
        return self._state

    def glance(self) -> int | None:
        """The same, for a sweep."""
        return self.state(True)

    def _connect(self, at: float) -> None:
        self._state = CONNECTING
        self._next = at + self.host.connect

    def _advance(self, at: float) -> None:
        host = self.host
        if self._state == CONNECTING and not host.is_down(at):
            self._state = READY
            self._next = host.next_down(at) + host.shows
        elif self._state == CONNECTING:
            self._state = TRANSIENT_FAILURE
            self._next = at + host.retry
        elif self._state == READY and host.idles:
            self._state = IDLE
            self._next = float("inf")
        else:
            self._connect(at)


@final
class Flight:
    """One attempt under way.

    Args:
        n: the call.
        k: how many attempts of it there were, this one included.
        ends: when its status comes, unless it is ended before.
        code: of the status.
        details: of the status.
        pushback: the trailer.
        messages: when each message comes, and the messages.
    """

    __slots__ = ("_asked", "code", "details", "ends", "k", "messages", "n", "over", "pace", "pushback", "skew")

    def __init__(self, n: int, k: int) -> None:
        self.n = n
        self.k = k
        self.ends = float("inf")
        self.code = self.details = ""
        self.pushback: str | None = None
        self.messages: list[tuple[float, str]] = []
        self.over = False
        self.skew = 0.0
        self.pace = 0.0
        self._asked = 0

    @property
    def message(self) -> str:
        """The response of a call that has one."""
        return f"message {self.n}.{self.k}"

    def asked_after_end(self) -> None:
        """A reader wants a message though there are no more."""
        self._asked += 1
        if self._asked > 1000:
            raise SpinError(f"a reader asks attempt {self.n}.{self.k} again and again, which has ended")

    def _end(self, at: float, code: str, details: str) -> None:
        if at < self.ends:
            self.ends, self.code, self.details, self.pushback = tick(at), code, f"{details} ({self.n}.{self.k})", None


@final
class Network:
    """The servers of one world.

    Args:
        script: what they do.
        trace: what they see.
        now: virtual time.
    """

    def __init__(self, script: Script, trace: Trace, now: Callable[[], float]) -> None:
        self.script = script
        self.trace = trace
        self.now = now
        self.questions = 0
        self._sent: dict[int, int] = {}

    def open(self, address: str) -> Link:
        """A connection that has yet to be asked for."""
        self.trace.add(-1, "open", address)
        return Link(self.script.hosts[address], self.now)

    def closed(self, link: Link) -> None:
        """The connection was ended."""
        self.trace.add(-1, "close", link.host.address)

    def send(self, method: str, link: Link, timeout: float | None, previous: str | None) -> Flight:
        """An attempt leaves."""
        now, host = self.now(), link.host
        n = int(method.removeprefix(METHOD))
        k = self._sent[n] = self._sent.get(n, 0) + 1
        self.trace.add(n, "send", k, host.address, timeout, previous)
        reply = self.script.reply(n, k, host.address)
        flight = Flight(n, k)
        flight.skew = skew = reply.skew / 10
        flight.pace = reply.pace
        if link.state(False) != READY:
            flight._end(now + REFUSAL_SECONDS + skew, "UNAVAILABLE", f"{REFUSED}{native_target(host.address)}: refused")
            return flight
        if host.is_down(now):
            flight._end(now + RESET_SECONDS + skew, "UNAVAILABLE", "recvmsg: Connection reset by peer")
            return flight
        flight._end(now + reply.delay, reply.code, f"{reply.code} from {host.address}")
        flight.pushback = reply.pushback
        flight._end(host.next_down(now) + skew, "UNAVAILABLE", "recvmsg: Connection reset by peer")
        if timeout is not None:
            flight._end(now + max(0.0, timeout) + reply.skew, "DEADLINE_EXCEEDED", "Deadline Exceeded")
        arrivals = [(tick(now + delay), f"message {n}.{k}.{i}") for i, delay in enumerate(reply.messages)]
        flight.messages = [(at, text) for at, text in arrivals if at < flight.ends]
        return flight

    def cancel(self, flight: Flight, details: str = CANCELLED) -> bool:
        """The attempt is ended from here; its end is told a moment later. False if it has ended already."""
        now = self.now()
        if flight.over or flight.ends <= now:
            return False
        self.trace.add(flight.n, "cancel", flight.k, details)
        flight.code, flight.details, flight.pushback = "CANCELLED", details, None
        flight.ends = tick(now + CANCEL_SECONDS + flight.skew / 10)
        flight.messages = [(at, text) for at, text in flight.messages if at <= now]
        return True

    def took(self, flight: Flight, size: int | None) -> None:
        """The attempt was given a request of ``size`` bytes to send; None: and that no more follow."""
        if not flight.over and flight.code != "CANCELLED":
            self.trace.add(flight.n, "request", flight.k, size)

    def landed(self, flight: Flight) -> None:
        """The end of the attempt was told."""
        assert not flight.over
        flight.over = True
        self.trace.add(flight.n, "end", flight.k, flight.code)
