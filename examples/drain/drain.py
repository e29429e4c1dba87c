"""A rolling restart without a failed call: out of DNS first, then a graceful stop. A stream runs to its end."""

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable

import grpc

import meshlib
from meshlib.testing import DnsServer, Server, echo, servers

NAME = "_grpc._tcp.svc-a.mesh.test"


class Callers:
    """Four threads that never pause."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.ends: Counter[str] = Counter()
        self._call = channel.unary_unary(echo.UNARY)
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(4)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._call(b"hello", timeout=5)
                self.ends["answered"] += 1
            except grpc.RpcError as error:
                self.ends[f"failed: {error.code().name}"] += 1

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("what the example waits for did not come")
        time.sleep(0.01)


def publish(dns: DnsServer, instances: list[Server]) -> None:
    """Publish these instances in DNS."""
    dns.set(NAME, "SRV", *(f"0 1 {server.port} {server.name}.mesh.test" for server in instances))


def main() -> None:
    with DnsServer() as dns, servers(3) as instances:
        for server in instances:
            dns.add(f"{server.name}.mesh.test", "A", "127.0.0.1")
        publish(dns, instances)
        # Retries off, so that every failure shows.
        with meshlib.channel(f"srv://{dns.address}/{NAME}", retry=None) as channel:
            grpc.channel_ready_future(channel).result(timeout=20)
            sent: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
            chat = channel.stream_stream(echo.BIDI_STREAM)(iter(sent.get, None), timeout=60)
            sent.put(b"hello")
            next(chat)
            leaving = next(server for server in instances if server.in_flight)
            staying = [server for server in instances if server is not leaving]

            callers = Callers(channel)
            until(lambda: all(server.calls[echo.UNARY] > 100 for server in instances))

            publish(dns, staying)
            addresses = {server.address for server in staying}
            until(lambda: {host.address for host in channel.mesh.snapshot().hosts} == addresses)
            until(lambda: leaving.in_flight == 1)
            print("out of DNS: no call is left on it but the chat")

            sent.put(b"still here?")
            print(f"the chat goes on: {next(chat)!r}")
            sent.put(None)
            print(f"and ends as it wishes: {list(chat)}, {chat.code().name}")

            leaving.stop(grace=5)
            seen = callers.ends.total()
            until(lambda: callers.ends.total() > seen + 1000)
            callers.stop()
            print(f"the server has stopped; calls: {sorted(callers.ends)}")


if __name__ == "__main__":
    main()
