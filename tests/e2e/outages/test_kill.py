"""Servers are killed with calls in flight, again and again, and no call fails: the promise of the project."""

import time
from collections import Counter
from contextlib import ExitStack

import pytest
from tests.e2e.load import KINDS, SHELLS, Kind, Load, Shell

from meshlib.testing import ProcessServer

pytestmark = pytest.mark.alone  # attempts per call are asserted and printed

KILLS = 20
INSIDE = 8
CALLERS = 30
DELAY = 50.0  # milliseconds
BETWEEN = 150
"""Calls from one kill to the next: a realistic service does not lose a server twice a second."""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shell", SHELLS)
def test_twenty_kills_and_no_failed_call(shell: Shell, kind: Kind, capsys: pytest.CaptureFixture[str]) -> None:
    """20 x kill -9 with at least 8 calls inside 50 ms handlers of the killed server: no call fails, calls that ran
    twice were inside at a kill, and there are at most 1.05 attempts per call.

    A stream whose first message has reached the application cannot be retried, so one that loses its server between
    that and its status may fail; those are counted apart.
    """
    with ExitStack() as stack:
        servers = [stack.enter_context(ProcessServer(name=name)) for name in "abc"]
        load = stack.enter_context(
            Load(_target(servers), shell=shell, kind=kind, callers=CALLERS, delay=DELAY, prefix=f"{shell}-{kind}")
        )
        load.wait_until(lambda: load.ready() == len(servers))
        lost: set[str] = set()
        for n in range(KILLS):
            victim = servers[n % len(servers)]
            load.wait_for_calls(BETWEEN)
            _stop_with_calls_inside(victim)
            lost |= victim.kill()
            victim.start()
            load.wait_until(lambda: load.ready() == len(servers))
        load.stop()
        executions = sum((server.executions for server in servers), Counter[str]())

    twice = {request_id for request_id, times in executions.items() if times > 1}
    cut = [result for result in load.failed if result.committed]
    factor = load.attempts / len(load.results)
    with capsys.disabled():
        print(  # noqa: T201 - the acceptance criterion asks for the number
            f"\n{shell} {kind}: {KILLS} kills, {len(load.results)} calls, {len(lost)} inside at a kill, "
            f"{len(twice)} executed twice, {len(cut)} streams cut after their first message, "
            f"{factor:.3f} attempts per call"
        )
    assert [result for result in load.failed if result not in cut] == []
    assert kind == "streaming" or cut == []
    assert {result.code for result in cut} <= {"UNAVAILABLE"}
    assert {result.request_id for result in cut} <= lost
    assert twice <= lost
    assert factor <= 1.05


def _target(servers: list[ProcessServer]) -> str:
    return "static:///" + ",".join(server.address for server in servers)


def _stop_with_calls_inside(server: ProcessServer) -> None:
    """SIGSTOP it while it has many calls in flight, so that some are left when it is killed."""
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        server.wait_until(lambda server: len(server.unfinished) >= INSIDE, timeout=10.0)
        server.pause()
        if len(server.unfinished) >= INSIDE:
            return
        server.resume()
    raise TimeoutError(f"{server!r} never had {INSIDE} calls inside at once")
