"""A channel built before a fork serves every child, and the parent keeps working."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import until

import meshlib
from meshlib._sync import control
from meshlib.testing import ProcessServer, Server, echo

ROOT = Path(__file__).parents[3]

# After a call with fork support off, grpc's own channels hang in a child: documented as unsafe, not tested here.
CASES = [
    *((setting, state) for setting in (None, "1") for state in ("built", "used", "idle", "busy")),
    ("0", "built"),
]


@pytest.fixture(scope="module")
def addresses() -> Iterator[list[str]]:
    """Two servers in processes of their own, so that this one never loads grpc's threads."""
    with ProcessServer() as first, ProcessServer() as second:
        yield [first.address, second.address]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("setting", "state"), CASES)
def test_ten_of_ten_children_call_and_the_parent_goes_on(setting: str | None, state: str, addresses: list[str]) -> None:
    """A fork works under each setting of grpc's fork support, from each state of the channel that is safe for it."""
    environment = {key: value for key, value in os.environ.items() if key != "GRPC_ENABLE_FORK_SUPPORT"}
    if setting is not None:
        environment["GRPC_ENABLE_FORK_SUPPORT"] = setting
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    run = subprocess.run(
        [sys.executable, "-m", "tests.e2e.fork.sync_fork_child", state, *addresses],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_fork_waits_for_a_thread_that_asks_a_connection_for_its_state() -> None:
    """That thread holds a grpc lock, which would block the child forever."""
    with Server() as server, meshlib.channel(server.address) as channel:
        assert channel.unary_unary(echo.UNARY)(b"x", timeout=10) == b"x"
        runtime: Any = channel._plain.lease.runtime()  # type: ignore[attr-defined]
        (host,) = runtime.cluster.hosts
        held = threading.Lock()
        held.acquire()
        state, host.subchannel.state = host.subchannel.state, held.acquire  # blocks in C, as grpc may
        thread = threading.Thread(target=lambda: runtime.cluster.usable(host, now=runtime.now()))
        thread.start()
        try:
            until(control._inside, "a fork would wait")
        finally:
            host.subchannel.state = state
            held.release()
            thread.join(10)
        until(lambda: not control._inside(), "no thread is inside")
