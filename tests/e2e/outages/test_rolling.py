"""``benchmarks/rolling.py``, scaled down: servers restarted under load cost no call, and few attempts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.alone  # latencies are printed

ROLLING = Path(__file__).parents[3] / "benchmarks" / "rolling.py"
CALLERS = 16
CALLS, RESTARTS = 1600, 2


@pytest.mark.timeout(150)
@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_no_call_fails_while_servers_are_restarted(how: str, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Both shells. Each restart can cost each caller, with one call in flight, an attempt inside the server and one
    that grpc refused before it was noticed: a bound that no load of the machine changes.

    That no call fails needs no luck either: one server is down at a time, and a retry goes to another. The channels
    have the default policy, which retries CANCELLED: a stopping Python server ends some calls with it.
    """
    command = [sys.executable, str(ROLLING), f"--calls={CALLS}", f"--restarts={RESTARTS}", f"--seed={seed}"]
    command += ["--peer=meshlib", f"--how={how}", "--codes=UNAVAILABLE,CANCELLED", "--json"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    # The bounds of the benchmark are for its own numbers of calls and restarts: 1 may mean too many attempts here.
    assert run.returncode == 0 or "attempts per call are more than" in run.stderr, run.stderr
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert [row["shell"] for row in rows] == ["sync", "aio"]
    for row in rows:
        with capsys.disabled():
            print(  # noqa: T201 - the numbers that are not asserted
                f"\nrolling {row['shell']} {how}: {row['restarts']} restarts, {row['calls']} calls, "
                f"failed {row['failed']}, {row['attempts per call']:.4f} attempts per call, "
                f"p99 {row['p99 ms']:.0f} ms, {row['quiet p99 ms']:.0f} in peace"
            )
        assert row["restarts"] >= 1
        assert row["calls"] == CALLS
        assert row["failed in peace"] == row["failed"] == {}
        assert row["attempts per call"] <= 1 + 2 * CALLERS * row["restarts"] / CALLS
        assert row["runs per call"] <= row["attempts per call"]
