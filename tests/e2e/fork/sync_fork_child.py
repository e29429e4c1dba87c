"""A program that calls, forks and calls again; run by test_sync_fork under each setting of grpc's fork support.

usage: python -m tests.e2e.fork.sync_fork_child STATE ADDRESS...   STATE is built, used, idle or busy
"""

import os
import sys
import threading
import time

import grpc
from tests.waiting import exit_status

import meshlib
from meshlib.testing import echo

CHILDREN = 10
PATIENCE = 15.0


def child(channel: meshlib.Channel) -> int:
    """Call on the channel made before the fork; 0 if that works."""
    answer = channel.unary_unary(echo.UNARY)(b"child", timeout=10)
    return 0 if answer == b"child" else 3


def forked(channel: meshlib.Channel) -> int:
    """The exit status of one forked child."""
    pid = os.fork()
    if pid == 0:
        try:
            status = child(channel)
        except BaseException as error:  # noqa: BLE001 - a child must not continue as its parent
            print(f"child: {error!r}", flush=True)  # noqa: T201 - the parent reads it
            status = 4
        os._exit(status)
    return exit_status(pid, PATIENCE)


def main(state: str, addresses: list[str]) -> int:
    """Call, fork ten times, call again; 0 if all of that worked."""
    channel = meshlib.channel("static:///" + ",".join(addresses))
    unary = channel.unary_unary(echo.UNARY)
    stop = threading.Event()
    failures: list[object] = []

    def call_on() -> None:
        while not stop.is_set():
            try:
                unary(b"busy", timeout=10)
            except grpc.RpcError as error:
                failures.append(error)

    threads = [threading.Thread(target=call_on) for _ in range(3)] if state == "busy" else []
    if state != "built":
        assert unary(b"before", timeout=10) == b"before"
    for thread in threads:
        thread.start()
    if state == "idle":
        time.sleep(0.3)  # the channel is not called meanwhile: that is the state under test
    statuses = [forked(channel) for _ in range(CHILDREN)]
    stop.set()
    for thread in threads:
        thread.join(15)
    after = unary(b"after", timeout=10) == b"after"
    channel.close()
    print(  # noqa: T201 - the test shows it
        f"children {statuses} parent {'ok' if after else 'broken'} failures {len(failures)} {failures[:1]}"
    )
    return 0 if after and not failures and statuses == [0] * CHILDREN else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
