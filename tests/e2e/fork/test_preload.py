"""Workers forked from a master that has used the channel call at once: gunicorn's ``--preload``, reloaded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from meshlib.testing import ProcessServer

ROOT = Path(__file__).parents[3]
RELOADS = int(os.environ.get("MESHLIB_RELOADS", "4"))
"""``nox -s preload`` has more: C-core resumes dials from before a fork on old descriptors, in one start of some
hundred. Channels that share such a dial wait for its timeout."""
WORKERS = 4


@pytest.mark.timeout(60 + 2 * RELOADS)
def test_workers_of_a_master_that_used_the_channel_have_answers() -> None:
    """No worker waits for a connection that was copied from the master."""
    with ProcessServer() as first, ProcessServer() as second:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        run = subprocess.run(
            [
                sys.executable,
                "-m",
                "tests.e2e.fork.preload_master",
                str(RELOADS),
                str(WORKERS),
                first.address,
                second.address,
            ],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=50 + 2 * RELOADS,
            check=False,
        )
    assert run.returncode == 0, run.stdout + run.stderr
