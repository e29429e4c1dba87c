"""etcd3 unchanged over meshlib, on a real cluster of three: members are killed in turn, and one client continues.

usage: python -m tests.clients.etcd3_client, with ``PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python``
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import etcd3
import grpc
from tests.e2e.etcd import Etcd

import meshlib

DEADLINE = 20.0


def until_done(call: Callable[[], Any]) -> Any:
    """Repeat while a call may fail: with its member, or while there is no leader."""
    end = time.monotonic() + DEADLINE
    while True:
        try:
            return call()
        except etcd3.exceptions.Etcd3Exception:
            assert time.monotonic() < end
            time.sleep(0.02)


def main() -> None:
    """Write, kill, write and read."""
    program = shutil.which("etcd")
    assert program, "etcd is not installed; it comes with the Debian package etcd-server"
    with tempfile.TemporaryDirectory() as folder, Etcd(Path(program), Path(folder), clustered=True) as cluster:
        os.environ["MESHLIB_ETCD_ENDPOINTS"] = ",".join(cluster.addresses)
        grpc.insecure_channel = meshlib.insecure_channel  # after the cluster, which uses grpc's own for its members
        client = etcd3.client(host="etcd", port=cluster.port, timeout=2)
        for n, member in enumerate(cluster.members):
            key, value = f"key-{n}", f"value-{n}"
            until_done(lambda key=key: client.put(key, "before"))
            member.kill()
            until_done(lambda key=key, value=value: client.put(key, value))
            assert until_done(lambda key=key: client.get(key))[0] == value.encode()
            member.start()
        assert isinstance(client.channel, meshlib.Channel)
        client.close()
    print("etcd3: three members killed in turn, one client went on")  # noqa: T201 - what the session shows


if __name__ == "__main__":
    main()
