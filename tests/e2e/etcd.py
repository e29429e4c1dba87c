"""Real etcd servers for tests: a third-party gRPC service, in Go, on one port of 127.0.0.11, .12 and .13."""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import grpc

from meshlib.testing.addresses import Reservation, reserve_one_port
from meshlib.testing.processes import Child

CHECK = "/grpc.health.v1.Health/Check"
PUT = "/etcdserverpb.KV/Put"
RANGE = "/etcdserverpb.KV/Range"

SERVING = b"\x08\x01"
"""A HealthCheckResponse whose status is SERVING."""

_SECONDS = 30.0
_PROBE_SECONDS = 1.0


class Member:
    """One etcd process. It keeps its addresses and its data until ``close``, over kill and start."""

    def __init__(
        self, program: Path, directory: Path, client: Reservation, peer: Reservation, cluster: dict[str, str]
    ) -> None:
        self.name = directory.name
        self.address = client.address
        """The address for clients: ``127.0.0.11:41234``."""
        self._directory = directory
        self._reservations = (client, peer)
        settings = {
            "name": self.name,
            "data-dir": directory / "data",
            "listen-client-urls": f"http://{client.address}",
            "advertise-client-urls": f"http://{client.address}",
            "listen-peer-urls": cluster[self.name],
            "initial-advertise-peer-urls": cluster[self.name],
            "initial-cluster": ",".join(f"{name}={url}" for name, url in cluster.items()),
            "heartbeat-interval": 50,  # milliseconds; half of the defaults, so that a leader is elected sooner
            "election-timeout": 500,
            "logger": "zap",
            "log-level": "warn",
        }
        command = [str(program), *(f"--{option}={value}" for option, value in settings.items())]
        foreign = {name: value for name, value in os.environ.items() if not name.startswith("ETCD_")}
        self._child = Child(command, log=directory / "log", env=foreign | {"GOMAXPROCS": "1"})

    def launch(self) -> None:
        """Start the process and return at once; the first members of a cluster wait for each other."""
        self._directory.mkdir(exist_ok=True)
        self._child.start()

    def wait_until_serving(self) -> None:
        """Wait until it is healthy and its cluster has a leader; RuntimeError or TimeoutError has its last output."""
        self._child.wait_until(self._serves, timeout=_SECONDS)

    def start(self) -> None:
        """Start it again, at the same address with the same data; returns when it serves."""
        self.launch()
        self.wait_until_serving()

    def kill(self) -> None:
        """Kill it by SIGKILL. Idempotent."""
        self._child.kill()

    def terminate(self) -> None:
        """Stop it by SIGTERM: it sends GOAWAY to its clients and transfers its leadership."""
        self._child.terminate()

    def pause(self) -> None:
        """Freeze it by SIGSTOP: connected and silent."""
        self._child.pause()

    def resume(self) -> None:
        """Resume it by SIGCONT."""
        self._child.resume()

    def close(self) -> None:
        """Kill it and free its ports. Idempotent."""
        self._child.kill()
        for reservation in self._reservations:
            reservation.release()

    def _serves(self) -> bool:
        with grpc.insecure_channel(self.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            try:
                healthy = channel.unary_unary(CHECK)(b"", timeout=_PROBE_SECONDS) == SERVING
                get(channel, b"any")  # a linearizable read: it needs a leader
            except grpc.RpcError:
                return False
            return healthy


class Etcd:
    """Three members, each alone with its own data or all in one cluster, on one port so that A records can name them.

    Args:
        program: The path of ``etcd``.
        directory: An empty folder for their files.
        clustered: Whether they share their data; alone, each answers with the data put through it.
    """

    def __init__(self, program: Path, directory: Path, *, clustered: bool = False) -> None:
        hosts = {f"member-{n}": f"127.0.0.{10 + n}" for n in (1, 2, 3)}
        clients, peers = (reserve_one_port(list(hosts.values())) for _ in range(2))
        self.port = clients[0].port
        """The target of all three members."""
        urls = {name: f"http://{peer.address}" for name, peer in zip(hosts, peers, strict=True)}
        self.members = [
            Member(program, directory / name, client, peer, urls if clustered else {name: urls[name]})
            for name, client, peer in zip(hosts, clients, peers, strict=True)
        ]
        try:
            for member in self.members:
                member.launch()
            for member in self.members:
                member.wait_until_serving()
        except BaseException:
            self.close()
            raise

    @property
    def addresses(self) -> list[str]:
        """The client address of each member."""
        return [member.address for member in self.members]

    def close(self) -> None:
        """Kill all. Idempotent."""
        with ExitStack() as stack:
            for member in self.members:
                stack.callback(member.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def put(channel: grpc.Channel, key: bytes, value: bytes, *, timeout: float = _PROBE_SECONDS) -> None:
    """Set a key: a ``PutRequest{key = 1, value = 2}``."""
    channel.unary_unary(PUT)(_field(1, key) + _field(2, value), timeout=timeout)


def get(channel: grpc.Channel, key: bytes, *, timeout: float = _PROBE_SECONDS) -> bytes | None:
    """The value of a key, None if it is not set: a ``RangeRequest{key = 1}``."""
    return range_value(channel.unary_unary(RANGE)(_field(1, key), timeout=timeout))


def range_value(response: bytes) -> bytes | None:
    """The value of the one ``KeyValue{value = 5}`` of a ``RangeResponse{kvs = 2}``."""
    pair = dict(_fields(response)).get(2)
    return None if pair is None else bytes(dict(_fields(pair)).get(5, b""))


def _field(number: int, value: bytes) -> bytes:
    """A length-delimited protobuf field of fewer than 128 bytes, whose length is one byte."""
    assert number < 16
    assert len(value) < 128
    return bytes((number << 3 | 2, len(value))) + value


def _fields(message: bytes) -> list[tuple[int, bytes]]:
    """The length-delimited fields of a protobuf message; skips integers, the only others that etcd sends."""
    fields, rest = [], memoryview(message)

    def varint() -> int:
        nonlocal rest
        value = shift = 0
        while True:
            byte, rest = rest[0], rest[1:]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while rest:
        tag = varint()
        length = varint()  # or the value itself
        if tag & 7 == 2:
            fields.append((tag >> 3, bytes(rest[:length])))
            rest = rest[length:]
    return fields
