"""All faults, in an order that the seed repeats, under calls of all kinds.

The checks, in words (``calls.wrong`` has them one by one):

* Every call ends once, by its deadline, with an explained status; its messages are right and in order, and it ran no
  more often than attempts of it were sent.
* Afterwards nothing is in flight, no slot of the retry budget is held, and no thread, task or descriptor is left.
* While one host is healthy, no call fails. The promise has conditions, and the run meets them: a timeout per attempt,
  for without it a frozen host keeps a call to its deadline; more attempts than faulty hosts, each of which may cost
  one, for a retry goes to a host that the call has not tried; a deadline that has room for them; no retry budget, which
  exists to break this promise when too much fails at once; and no message delivered yet, for a delivered message cannot
  be taken back. CANCELLED is among the retried codes: a Python server that stops gracefully ends some calls with it.
* After a total outage calls are answered again.

The slack for late calls does not assert speed. A call that truly misses its deadline, because nothing watches it,
ends with its host or never; the slack is the lateness of the machine itself, measured beside the calls.
"""

import os
import time
from collections import Counter
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from tests.e2e.chaos.aio_callers import AioCallers
from tests.e2e.chaos.callers import Callers
from tests.e2e.chaos.calls import Record, wrong
from tests.e2e.chaos.fleet import Fleet
from tests.e2e.chaos.schedule import DNS, GOAWAY, NAMES, PROCESS, WIRE, Epoch, draw
from tests.e2e.chaos.sync_callers import SyncCallers
from tests.waiting import until

import meshlib

EPOCHS = int(os.environ.get("MESHLIB_CHAOS_EPOCHS", "3"))
"""``nox -s chaos`` asks for more; the ordinary tests have seconds."""
HOSTS, WIRED = (3, 2) if EPOCHS <= 3 else (5, 3)
SECONDS = 1.2
CALLERS = 6
PER_ATTEMPT = 0.5
PATIENCE = 15.0  # seconds: room for a timeout and a backoff of every attempt
SHELLS: dict[str, Any] = {"sync": SyncCallers, "aio": AioCallers}


@pytest.mark.alone  # timeouts are short; its actions are printed
@pytest.mark.timeout(60 + 20 * EPOCHS)
@pytest.mark.parametrize("shell", SHELLS)
def test_chaos(shell: str, seed: int, rng: Random, capsys: pytest.CaptureFixture[str]) -> None:
    """The checks hold over epochs of faults; in every third everything may be down at once."""
    schedule = draw(rng, hosts=HOSTS, wired=WIRED, epochs=EPOCHS, seconds=SECONDS)
    retry = meshlib.RetryPolicy(
        max_attempts=HOSTS + 4,  # a wrong answer names two more; and the machine may delay a healthy host's answer
        per_attempt_timeout=PER_ATTEMPT,
        retryable_status_codes=frozenset({"UNAVAILABLE", "CANCELLED"}),
    )
    dns = meshlib.DnsPolicy(min_ttl=0.2, max_ttl=0.2, query_timeout=0.2, timeout=0.4)
    with (
        Fleet(hosts=HOSTS, wired=WIRED) as fleet,
        SHELLS[shell](
            fleet.target,
            balancer=schedule.balancer,
            retry=retry,
            retry_budget=None,
            dns=dns,
            options=[("grpc.max_reconnect_backoff_ms", 1000)],
        ) as callers,
    ):
        for number, epoch in enumerate(schedule.epochs):
            _all_ready(callers, fleet)
            first = len(callers.records)
            callers.begin(
                [Random(rng.random()) for _ in range(CALLERS)],
                patience=PATIENCE if epoch.guardian is not None else 2.0,
                wait=epoch.guardian is None,
            )
            fleet.suffer(epoch)
            _all_ready(callers, fleet)
            healed, known = time.monotonic(), len(callers.records)
            until(lambda known=known: len(callers.records) > known + 3 * CALLERS)
            callers.end()
            _judge(callers, callers.records[first:], healed, epoch, fleet, f"seed {seed}, epoch {number}")
            _nothing_under_way(callers)
    with capsys.disabled():
        print(_summary(shell, seed, schedule.balancer, callers.records))  # noqa: T201 - the faults and their outcomes


def test_a_seed_repeats_its_schedule() -> None:
    """The same seed draws the same faults; together the seeds draw every kind."""
    drawn = [draw(Random(seed), hosts=HOSTS, wired=WIRED, epochs=3, seconds=SECONDS) for seed in range(50)]
    assert drawn == [draw(Random(seed), hosts=HOSTS, wired=WIRED, epochs=3, seconds=SECONDS) for seed in range(50)]
    kinds = set().union(*(epoch.kinds() for schedule in drawn for epoch in schedule.epochs))
    assert kinds == {*PROCESS, *WIRE, *NAMES, GOAWAY}
    for epoch in (epoch for schedule in drawn for epoch in schedule.epochs):
        assert epoch.guardian is None or epoch.of(epoch.guardian) == []
        for where in range(DNS, HOSTS):
            faults = epoch.of(where)
            assert all(one.until <= two.at for one, two in pairwise(faults))


def _all_ready(callers: Callers, fleet: Fleet) -> None:
    """Wait until all hosts, and no other, are connected."""
    callers.connect()
    until(
        lambda: (
            sorted(host.address for host in callers.channel.mesh.snapshot().hosts if host.state == "READY")
            == sorted(fleet.addresses)
        )
    )


def _nothing_under_way(callers: Callers) -> None:
    """Check that all counts are back to zero."""

    def given_back() -> bool:
        mesh = callers.channel.mesh
        snapshot = mesh.snapshot()
        in_flight = [
            mesh._live().cluster.in_flight,
            *(host.in_flight for host in snapshot.hosts),
        ]  # with hosts that left
        return snapshot.retries_held == 0 and not any(in_flight)

    until(given_back)


def _judge(callers: Callers, records: list[Record], healed: float, epoch: Epoch, fleet: Fleet, where: str) -> None:
    until(lambda: all(record.told for record in records))  # callbacks come from other threads
    slack, executed = 2.0 + 10 * callers.late(), fleet.executions
    stopped = "stop" in epoch.kinds()
    found = []
    for record in records:
        guarded = epoch.guardian is not None or record.began >= healed
        problem = wrong(record, guarded=guarded, stopped=stopped, slack=slack, executed=executed)
        if problem:
            found.append(f"{problem}: {record}")
    if found:
        more = f"{len(found)} in all; the faults were"
        pytest.fail("\n".join([f"{where}, guardian {epoch.guardian}:", *found[:10], more, *map(str, epoch.faults)]))


def _summary(shell: str, seed: int, balancer: str, records: list[Record]) -> str:
    codes = Counter(record.code for record in records)
    attempts = sum(len(record.attempts) for record in records)
    cut = sum(record.code != "OK" and bool(record.messages) for record in records)
    return (
        f"\nchaos {shell}: MESHLIB_SEED={seed}, {EPOCHS} epochs, {balancer}, {len(records)} calls, "
        f"{attempts / len(records):.2f} attempts per call, {cut} ended after their first message, {dict(codes)}"
    )
