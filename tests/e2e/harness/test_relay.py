"""The test relay breaks as documented."""

import socket
import threading
from collections.abc import Iterator

import pytest
from tests.e2e.relay import Relay

WAIT = 5.0
A_WHILE = 0.1  # seconds in which no data may arrive


@pytest.fixture
def relay() -> Iterator[Relay]:
    """A relay before a server that echoes its input, one connection after another."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    while data := connection.recv(65536):
                        connection.sendall(data)
                except OSError:
                    continue

    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=serve)
    thread.start()
    with Relay(f"127.0.0.1:{listener.getsockname()[1]}") as relay:
        yield relay
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(WAIT)


@pytest.fixture
def client(relay: Relay) -> Iterator[socket.socket]:
    """A connection through it that has carried data already."""
    with connected(relay) as client:
        client.sendall(b"hello")
        assert client.recv(5) == b"hello"
        yield client


def connected(relay: Relay) -> socket.socket:
    """A connection to it."""
    host, _, port = relay.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=WAIT)


def first_byte(relay: Relay) -> bytes:
    """The first bytes of a new connection; RST may arrive before it is established."""
    with connected(relay) as client:
        return client.recv(1)


def test_reset_is_rst(relay: Relay, client: socket.socket) -> None:
    """RST differs from the end of a stream for the peer. The next connection works."""
    relay.reset()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with connected(relay) as again:
        again.sendall(b"x")
        assert again.recv(1) == b"x"


def test_a_black_hole_keeps_what_it_swallows(relay: Relay, client: socket.socket) -> None:
    """Connections stay and new ones are accepted; the data arrives when the fault ends."""
    relay.hold()
    with connected(relay) as another:
        for each in (client, another):
            each.sendall(b"later")
            each.settimeout(A_WHILE)
            with pytest.raises(TimeoutError):
                each.recv(5)
        relay.release()
        client.settimeout(WAIT)
        assert client.recv(5) == b"later"


def test_a_cut_lets_so_many_bytes_through(relay: Relay, client: socket.socket) -> None:
    """RST arrives after the configured number of bytes, in the middle of the data."""
    relay.cut_after(3)
    client.sendall(b"hello")
    try:
        assert client.recv(5) == b"hel"
    except ConnectionResetError:
        return  # received data was lost with the connection
    with pytest.raises(ConnectionResetError):
        client.recv(5)


def test_refusing_ends_new_connections_and_old(relay: Relay, client: socket.socket) -> None:
    """Connections are accepted, and reset at once, until this is turned off."""
    relay.refuse(True)
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with pytest.raises(ConnectionResetError):
        first_byte(relay)
    relay.refuse(False)
    with connected(relay) as again:
        again.sendall(b"x")
        assert again.recv(1) == b"x"


def test_without_its_server_it_resets(relay: Relay) -> None:
    """Without its server the relay behaves like a proxy whose upstream is gone."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nowhere = f"127.0.0.1:{unused.getsockname()[1]}"
        with Relay(nowhere) as lost, pytest.raises(ConnectionResetError):
            first_byte(lost)


def test_what_is_cut_is_refused_until_it_is_mended(relay: Relay, client: socket.socket) -> None:
    """Mended, it has the same address; a cut ends the open connection at once."""
    relay.cut()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connected(relay)
    relay.mend()
    relay.mend()
    with connected(relay) as again:
        again.sendall(b"x")
        assert again.recv(1) == b"x"


@pytest.mark.parametrize("fault", ["reset", "cut", "close"])
def test_a_connection_that_has_just_come_is_reset_too(relay: Relay, fault: str) -> None:
    """A reset at any stage of accepting a connection leaves nothing of it."""
    for _ in range(50):
        with Relay(relay.address) as second:
            client = connected(second)
            getattr(second, fault)()
            with client, pytest.raises(ConnectionResetError):
                client.recv(1)
