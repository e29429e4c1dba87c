"""Outlier detection: a server that answers with errors is ejected and returns; and a client whose deadline is too short
ejects a healthy server."""

from contextlib import suppress

import grpc

import meshlib
from meshlib.testing import Server, echo, servers

QUICK = meshlib.OutlierDetection(base_ejection_time=3.0, interval=0.1)
"""Shorter than the default 30 s, to keep the example quick."""


def a_bad_server(instances: list[Server]) -> None:
    """One of three fails every call; retries hide it, and five failures eject it."""
    bad = instances[0]
    target = "static:///" + ",".join(server.address for server in instances)
    with meshlib.channel(target, outlier_detection=QUICK, timeout=5) as channel:
        unary = channel.unary_unary(echo.UNARY)
        bad.fault(code="UNAVAILABLE", details="out of memory")
        while channel.mesh.snapshot().ejections == 0:
            unary(b"hello")  # raises nothing: another host answers the retry

        host = next(host for host in channel.mesh.snapshot().hosts if host.address == bad.address)
        print(f"{host.state}, and ejected for {host.ejected_for}")
        before = bad.calls.total()
        for _ in range(50):
            unary(b"hello")
        print(f"of the next 50 calls it had {bad.calls.total() - before}")

        bad.heal()
        while bad.calls.total() == before:
            unary(b"hello")
        print("its time was over, and it is called again")


def an_impatient_client(instances: list[Server]) -> None:
    """Every server takes 300 ms and the deadline is 50 ms: healthy servers look faulty."""
    for server in instances:
        server.fault(delay=0.3)
    target = "static:///" + ",".join(server.address for server in instances)
    with meshlib.channel(target, timeout=0.05) as channel:
        unary = channel.unary_unary(echo.UNARY)
        while channel.mesh.snapshot().ejections_spared == 0:
            with suppress(grpc.RpcError):  # DEADLINE_EXCEEDED, each time
                unary(b"hello")
        snapshot = channel.mesh.snapshot()
        print(f"healthy hosts ejected: {snapshot.ejections}; no more, for one of three is the most that may be")


def main() -> None:
    with servers(3) as instances:
        a_bad_server(instances)
        an_impatient_client(instances)


if __name__ == "__main__":
    main()
