"""Unix sockets whose paths contain characters with a meaning in URIs."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import grpc
import pytest

import meshlib
from meshlib.discovery import Endpoint, Resolution
from meshlib.testing import echo

SOON = 10.0


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%3Fb", "a%b", "a b", "\xfc"])
def test_a_path_is_decoded_once(tmp_path: Path, name: str) -> None:
    """The percent-encoded path of the target is the path of the file, as in grpc; a resolver's path is not a URI."""
    path = str(tmp_path / name)
    server = grpc.server(ThreadPoolExecutor(2))
    echo.add_echo_to_server(server)
    server.add_insecure_port(f"unix:{quote(path)}")
    server.start()

    class Resolver:
        """Returns the file's path as it is."""

        def resolve(self, previous: Resolution | None) -> Resolution:
            return Resolution(endpoints=(Endpoint(address=f"unix:{path}"),))

    try:
        for channel in (
            grpc.insecure_channel(f"unix:{quote(path)}"),
            meshlib.channel(f"unix:{quote(path)}"),
            meshlib.channel(f"unix://{quote(path)}"),
            meshlib.insecure_channel(f"unix:{quote(path)}"),
            meshlib.channel("svc-a", resolver=Resolver()),
        ):
            with channel:
                assert channel.unary_unary(echo.UNARY)(b"x", timeout=SOON) == b"x"
    finally:
        server.stop(None).wait()
