"""A process without file descriptors or threads for a call: the call fails, nothing is lost, and it recovers."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshlib.testing import ProcessServer

PROGRAM = Path(__file__).with_name("shortage_child.py")
ANSWERS = {"unary": "x", "future": "x", "stream": "xxx", "upload": "xy"}
CASES = [
    *(("sync", what, kind) for what in ("descriptors", "threads") for kind in ANSWERS if kind != "upload"),
    *(("sync", "later threads", kind) for kind in ANSWERS if kind != "unary"),
    *(("aio", "descriptors", kind) for kind in ("unary", "stream")),
]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A server in a separate process, whose limits are not those of the programs."""
    with ProcessServer() as server:
        yield server.address


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
@pytest.mark.parametrize(("shell", "what", "kind"), CASES)
def test_a_call_that_cannot_start_fails_and_loses_nothing(shell: str, what: str, kind: str, address: str) -> None:
    """The call ends as an UNAVAILABLE of this process, no descriptor is lost, and a later call is answered."""
    run = subprocess.run(
        [sys.executable, str(PROGRAM), shell, what, kind, address],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    # The channel's first future or stream reaches C-core before grpc needs a thread.
    begun = what == "later threads"
    assert json.loads(run.stdout) == {
        "without": [[True, "UNAVAILABLE", not begun, True], *[[True, "UNAVAILABLE", True, True]] * 2],
        "lost": 0,
        "after": ANSWERS[kind],
    }
