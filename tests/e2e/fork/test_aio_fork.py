"""An asyncio channel built before a fork serves every child on its own loop, and the parent keeps working."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshlib.testing import ProcessServer

ROOT = Path(__file__).parents[3]

# Not tested: a fork while anything of grpc.aio lives. Its poller thread is inside C-core then, which skips its fork
# handlers; children crash or hang on any channel, even grpc.aio's new ones.
CASES = [
    *((setting, state) for setting in (None, "1") for state in ("built", "inside", "over")),
    ("0", "built"),
    ("0", "inside"),
]


@pytest.fixture(scope="module")
def addresses() -> Iterator[list[str]]:
    """Two servers in processes of their own, so that this one never loads grpc's threads."""
    with ProcessServer() as first, ProcessServer() as second:
        yield [first.address, second.address]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("setting", "state"), CASES)
def test_ten_of_ten_children_call_and_the_parent_goes_on(setting: str | None, state: str, addresses: list[str]) -> None:
    """A fork works under each setting, outside of a loop, inside of one, and after another channel is gone."""
    environment = {key: value for key, value in os.environ.items() if key != "GRPC_ENABLE_FORK_SUPPORT"}
    if setting is not None:
        environment["GRPC_ENABLE_FORK_SUPPORT"] = setting
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    run = subprocess.run(
        [sys.executable, "-m", "tests.e2e.fork.aio_fork_child", state, *addresses],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
