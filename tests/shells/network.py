"""The network of a world: connections, and the attempts sent over them. It never waits.

A performer of the script requests a :class:`Link` per host and a :class:`Flight` per attempt, waits in its own way, and
reports how the flight ended. Everything is recorded in the trace.
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
"""Until grpc reports that a cancelled attempt has ended. Each of these gets a small addition per attempt: attempts that
end in one moment would have no order, and the random draws would go to different calls."""


@final
class Link:
    """The connection to one host, as C-core's round_robin keeps it: a function of time and of when it was requested."""

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
        """The state without connecting, for a sweep."""
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
    """One attempt in flight.

    Args:
        n: the call.
        k: number of attempts of the call, including this one.
        ends: arrival of its status, unless it is ended before.
        code: of the status.
        details: of the status.
        pushback: the trailer.
        messages: arrival of each message, and the messages.
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
        """A reader wants a message after the last one."""
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
        script: behaviour of the servers.
        trace: records their view.
        now: virtual time.
    """

    def __init__(self, script: Script, trace: Trace, now: Callable[[], float]) -> None:
        self.script = script
        self.trace = trace
        self.now = now
        self.questions = 0
        self._sent: dict[int, int] = {}

    def open(self, address: str) -> Link:
        """A connection not yet requested."""
        self.trace.add(-1, "open", address)
        return Link(self.script.hosts[address], self.now)

    def closed(self, link: Link) -> None:
        """The connection was closed."""
        self.trace.add(-1, "close", link.host.address)

    def send(self, method: str, link: Link, timeout: float | None, previous: str | None) -> Flight:
        """Send an attempt."""
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
        """Cancel the attempt; its end is reported a moment later. False if it has ended already."""
        now = self.now()
        if flight.over or flight.ends <= now:
            return False
        self.trace.add(flight.n, "cancel", flight.k, details)
        flight.code, flight.details, flight.pushback = "CANCELLED", details, None
        flight.ends = tick(now + CANCEL_SECONDS + flight.skew / 10)
        flight.messages = [(at, text) for at, text in flight.messages if at <= now]
        return True

    def took(self, flight: Flight, size: int | None) -> None:
        """The attempt was given a request of ``size`` bytes to send, or with None the end of the requests."""
        if not flight.over and flight.code != "CANCELLED":
            self.trace.add(flight.n, "request", flight.k, size)

    def landed(self, flight: Flight) -> None:
        """The end of the attempt was reported."""
        assert not flight.over
        flight.over = True
        self.trace.add(flight.n, "end", flight.k, flight.code)
