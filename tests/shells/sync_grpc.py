"""grpc in a world of threads: the part of ``grpc.Channel`` and of its call objects that the shell uses, for scripted
hosts.

It also checks grpc's rules: no wait and no closing of a channel on grpc's delivery thread, and no lock held during a
call of grpc.
"""

import heapq
from collections.abc import Callable
from typing import Any, NoReturn, final

import grpc
from tests.shells.baton import Baton
from tests.shells.network import CANCELLED, CLOSED, REFUSED, Flight, Network
from tests.shells.observing import Failed, trailing
from tests.shells.primitives import Event, Thread

from meshlib._adapt.reasons import PROBE

__all__ = ["Channel", "Poller"]


@final
class Poller:
    """grpc's delivery thread; if it waits, every call waits."""

    def __init__(self, baton: Baton) -> None:
        self.baton = baton
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._stopped = False
        thread = Thread(baton, self._run, "grpc")
        self.seat = thread.seat
        baton.spawn(thread)

    def at(self, moment: float, step: Callable[[], None]) -> None:
        """Schedule ``step`` for ``moment``."""
        if moment < float("inf"):
            self._count += 1
            heapq.heappush(self._later, (moment, self._count, step))
            self.baton.wake(self.seat)

    def stop(self) -> None:
        self._stopped = True
        self.baton.wake(self.seat)

    def _run(self) -> None:
        baton = self.baton
        while not self._stopped:
            if self._later and self._later[0][0] <= baton.now:
                baton.others_first()
                step = heapq.heappop(self._later)[2]
                baton.seat.hurries = True
                step()
                baton.seat.hurries = False
            else:
                baton.block(self._later[0][0] if self._later else None, "something to deliver")


class _Refused(grpc.RpcError):
    """The end of a call on a failing connection, by C-core."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return REFUSED


def _refuse(request: bytes, timeout: float) -> None:
    raise _Refused


@final
class Channel:
    """A grpc channel to one scripted host: the part of ``grpc.Channel`` that the shell uses."""

    def __init__(self, network: Network, poller: Poller, *arguments: Any) -> None:
        target = arguments[0]
        self.network = network
        self.poller = poller
        self.link = network.open(target.removeprefix("ipv4:"))
        self.calls: list[Call] = []
        self._channel = self  # where grpc's own has the object with the connectivity
        self._open = True

    def check_connectivity_state(self, connect: bool) -> int:
        return self.link.state(connect)

    def unary_unary(
        self, method: str, serializer: Any = None, deserializer: Any = None, registered: bool = False
    ) -> Any:
        if method == PROBE:
            return _refuse
        return Multicallable(self, method, deserializer)

    unary_stream = stream_unary = stream_stream = unary_unary

    def close(self) -> None:
        assert not self.poller.baton.seat.holds, "a lock is held while grpc closes a channel"
        assert self.poller.baton.seat is not self.poller.seat, "a channel is closed on grpc's own thread"
        if self._open:
            self._open = False
            self.network.closed(self.link)
            for call in self.calls:
                call.end(CLOSED)

    def start(self, method: str, request: Any, deserializer: Any, timeout: float | None, metadata: Any) -> "Call":
        """Send an attempt."""
        assert not self.poller.baton.seat.holds, "a lock is held while grpc starts a call"
        if not self._open:
            raise ValueError("Cannot invoke RPC on closed channel!")
        previous = dict(metadata or ()).get("grpc-previous-rpc-attempts")
        call = Call(self, self.network.send(method, self.link, timeout, previous), deserializer)
        self.calls.append(call)
        if self.network.script.uploading:
            self.poller.baton.spawn(Thread(self.poller.baton, lambda: call.upload(request), "grpc's sender"))
        return call


@final
class Multicallable:
    """One method of a scripted host."""

    def __init__(self, channel: Channel, method: str, deserializer: Any) -> None:
        self._channel = channel
        self._method = method
        self._deserializer = deserializer

    def future(
        self, request: Any, timeout: Any, metadata: Any, credentials: Any, wait_for_ready: Any, compression: Any
    ) -> "Call":
        assert wait_for_ready is None, "an attempt never waits for a connection"
        return self._channel.start(self._method, request, self._deserializer, timeout, metadata)

    def with_call(self, *arguments: Any) -> tuple[Any, "Call"]:
        call = self.future(*arguments)
        return call.result(), call

    def __call__(self, *arguments: Any) -> Any:
        call = self.future(*arguments)
        return call if self._channel.network.script.streaming else call.result()


@final
class Call(grpc.RpcError):
    """One attempt in flight: the part of grpc's call object that the shell uses. Only the poller updates it."""

    mesh: Any = None

    def __init__(self, channel: Channel, flight: Flight, deserializer: Any) -> None:
        super().__init__()
        self._network = channel.network
        self._poller = channel.poller
        self._flight = flight
        self._deserializer = deserializer
        self._callbacks: list[Callable[[Any], None]] = []
        self._over = Event(channel.poller.baton)
        self._news = Event(channel.poller.baton)
        self._cancelled = False
        self._poller.at(flight.ends, self._land)

    def upload(self, requests: Any) -> None:
        """Send the requests, as fast as the server takes them."""
        flight, baton = self._flight, self._poller.baton
        for request in requests:
            if flight.over or self._cancelled:
                return
            self._network.took(flight, len(request))
            baton.block(baton.now + flight.pace, "the server to take a request")
            if flight.over or self._cancelled:
                return
        self._network.took(flight, None)

    def end(self, details: str) -> bool:
        """End the attempt locally."""
        assert not self._poller.baton.seat.holds, "a lock is held while grpc cancels a call"
        self._cancelled = self._network.cancel(self._flight, details) or self._cancelled
        self._poller.at(self._flight.ends, self._land)
        return self._cancelled

    def cancel(self) -> bool:
        return self.end(CANCELLED)

    def done(self) -> bool:
        return self._flight.over or self._cancelled

    def code(self) -> grpc.StatusCode:
        self._over.wait()
        return grpc.StatusCode[self._flight.code]

    def details(self) -> str:
        self._over.wait()
        return self._flight.details

    def initial_metadata(self) -> Any:
        self._over.wait()
        return ()

    def trailing_metadata(self) -> Any:
        self._over.wait()
        return trailing(self._flight)

    def debug_error_string(self) -> str:
        return ""

    def result(self) -> Any:
        self._over.wait()
        if self._flight.code != "OK":
            raise Failed(self._flight)
        return self._deserializer(self._flight.message.encode())

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        if self._flight.over:
            fn(self)
        else:
            self._callbacks.append(fn)

    def __next__(self) -> Any:
        assert not self._poller.baton.seat.holds, "a lock is held while a reader waits"
        flight, baton = self._flight, self._poller.baton
        while True:
            if flight.messages and flight.messages[0][0] <= baton.now:
                return self._deserializer(flight.messages.pop(0)[1].encode())
            if flight.over:
                flight.asked_after_end()
                self._end()
            self._news = Event(self._poller.baton)
            self._news.wait(flight.messages[0][0] - baton.now if flight.messages else None)

    def _end(self) -> NoReturn:
        if self._flight.code == "OK":
            raise StopIteration
        raise self

    def _land(self) -> None:
        flight, now = self._flight, self._poller.baton.now
        if flight.over or flight.ends > now:
            return
        self._network.landed(flight)
        self._over.set()
        self._news.set()
        if (flight.n + flight.k) % 2:
            self._tell()
        else:  # a reader may be faster than a callback
            self._poller.at(now, self._tell)

    def _tell(self) -> None:
        callbacks, self._callbacks = self._callbacks, []
        for fn in callbacks:
            fn(self)
