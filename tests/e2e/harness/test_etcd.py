"""The harness around etcd: three servers that serve, die and return, and a client without generated code."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from tests.e2e.etcd import CHECK, SERVING, Etcd, get, put, range_value

DEADLINE = 10.0


@pytest.fixture
def program(require_real: Callable[[str, str], Path]) -> Path:
    """The path of etcd."""
    return require_real("etcd", "etcd-server")


@contextmanager
def channel_to(address: str) -> Iterator[grpc.Channel]:
    """A connection of its own."""
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield channel


def test_three_servers_alone(program: Path, tmp_path: Path) -> None:
    """One port, three addresses, three data sets: a key identifies the server. All are healthy."""
    with Etcd(program, tmp_path) as etcd:
        assert etcd.addresses == [f"127.0.0.{n}:{etcd.port}" for n in (11, 12, 13)]
        for member in etcd.members:
            with channel_to(member.address) as channel:
                assert channel.unary_unary(CHECK)(b"", timeout=DEADLINE) == SERVING
                assert get(channel, b"name") is None
                put(channel, b"name", member.name.encode())
        for member in etcd.members:
            with channel_to(member.address) as channel:
                assert get(channel, b"name") == member.name.encode()
        pids = [member._child.pid for member in etcd.members]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    etcd.close()


def test_a_cluster_shares_its_memory_and_outlives_a_member(program: Path, tmp_path: Path) -> None:
    """All members have a written key; a killed member is refused at its port, and catches up when it returns."""
    with Etcd(program, tmp_path, clustered=True) as etcd:
        first, second, third = etcd.members
        with channel_to(first.address) as channel:
            put(channel, b"key", b"1", timeout=DEADLINE)
        with channel_to(second.address) as channel:
            assert get(channel, b"key", timeout=DEADLINE) == b"1"
            third.kill()
            with channel_to(third.address) as dead, pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
                get(dead, b"key")
            second.wait_until_serving()  # if the dead one was the leader, a request meanwhile would fail after 5 s
            put(channel, b"key", b"2", timeout=DEADLINE)
        third.start()
        with channel_to(third.address) as channel:
            assert get(channel, b"key", timeout=DEADLINE) == b"2"


def test_a_failed_start_shows_what_etcd_said(program: Path, tmp_path: Path) -> None:
    """The last output of the process is in the error; it and its neighbours leave nothing behind."""
    (tmp_path / "member-2").mkdir()
    (tmp_path / "member-2" / "data").write_text("no folder")
    with pytest.raises(RuntimeError, match=r"(?s)etcd ended with status 1:.*member-2/data"):
        Etcd(program, tmp_path)


def field(tag: int, value: bytes) -> bytes:
    """A length-delimited field, with a length of two bytes."""
    return bytes((tag << 3 | 2, len(value) & 0x7F | 0x80, len(value) >> 7)) + value


HEADER = field(1, b"\x08\x96\x01")
VERSION = b"\x10\x96\x01"


@pytest.mark.parametrize(
    ("response", "value"),
    [
        (b"", None),
        (HEADER, None),
        (HEADER + field(2, field(1, b"key") + VERSION), b""),
        (HEADER + field(2, field(1, b"key") + VERSION + field(5, b"v")), b"v"),
        (field(2, VERSION + field(5, b"v" * 300) + VERSION) + VERSION, b"v" * 300),
    ],
    ids=["empty", "no key", "empty value", "value", "long value"],
)
def test_responses_are_read_without_generated_code(response: bytes, value: bytes | None) -> None:
    """Integers are skipped, long fields are parsed, an empty value is not a missing one."""
    assert range_value(response) == value
