"""A master that has used a channel and forks workers again and again, as gunicorn with ``--preload`` does at each HUP.

usage: python -m tests.e2e.fork.preload_master RELOADS WORKERS ADDRESS...

Each worker starts to call within a third of a second, as if started under load. A call without an answer in two seconds
is a failure: the worker's connection then waits for state of its parent.
"""

import os
import random
import sys
import time

import grpc
from tests.waiting import exit_status

import meshlib
from meshlib.testing import echo

CALLS = 5
DEADLINE = 2.0
LONGEST_START = 0.3
END = 30.0


def work(channel: meshlib.Channel, start: float) -> int:
    """Run one worker; returns its exit status."""
    time.sleep(start)  # workers do not start to call at once
    unary = channel.unary_unary(echo.UNARY)
    for n in range(CALLS):
        try:
            unary(b"x", timeout=DEADLINE)
        except grpc.RpcError as error:
            print(f"worker {os.getpid()}, call {n + 1}: {error}", flush=True)  # noqa: T201 - for the reader of the output
            return 1
    return 0


def main(reloads: int, workers: int, addresses: list[str]) -> int:
    """Reload ``reloads`` times; 0 if every call of every worker was answered."""
    rng = random.Random()
    channel = meshlib.channel("static:///" + ",".join(addresses))
    unary = channel.unary_unary(echo.UNARY)
    for _ in range(20):
        unary(b"x", timeout=10)
    statuses = []
    for _ in range(reloads):
        pids = []
        for _ in range(workers):
            start = rng.random() * LONGEST_START
            pid = os.fork()
            if pid == 0:
                status = 4
                try:
                    status = work(channel, start)
                finally:
                    os._exit(status)
            pids.append(pid)
        statuses += [exit_status(pid, END) for pid in pids]
    answered = unary(b"x", timeout=10) == b"x"
    channel.close()
    failed = sum(status != 0 for status in statuses)
    print(f"{failed} of {len(statuses)} workers failed; the master {'goes on' if answered else 'is broken'}")  # noqa: T201
    return 0 if answered and not failed else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
