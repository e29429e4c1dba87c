"""An asyncio program that calls, forks and calls again; run by test_aio_fork under each setting of grpc's fork support.

usage: python -m tests.e2e.fork.aio_fork_child STATE ADDRESS...

STATE is built (no call before), over (another channel was used, closed and collected) or inside (as built, but a
coroutine forks, and the child abandons its loop).
"""

import asyncio
import gc
import os
import sys
import threading
from pathlib import Path
from typing import Any

from tests.waiting import exit_status, until

import meshlib.aio
from meshlib.testing import echo

CHILDREN = 10
PATIENCE = 15.0


async def call(channel: Any, text: bytes) -> None:
    """Make one call of each shape on the channel made before the fork."""
    assert await channel.unary_unary(echo.UNARY)(text, timeout=10) == text
    assert [message async for message in channel.unary_stream(echo.SERVER_STREAM)(text, timeout=10)]


def forked(channel: Any) -> int:
    """Fork a child that calls on its own loop; returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    status = 4
    try:
        asyncio.run(call(channel, b"child"))
        status = 0
    except BaseException as error:  # noqa: BLE001 - a child must not continue as its parent
        print(f"child: {error!r}", flush=True)  # noqa: T201 - the parent reads it
    finally:
        os._exit(status)


def state(task: Path) -> str:
    """The state of a thread of this process, by its letter (proc(5)); a thread that has ended counts as running."""
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "R"


def quiet() -> None:
    """Wait until all other threads of this process are idle: C-core's threads still close connections for a moment, and
    a fork during that is a fork with threads inside C-core."""
    own = str(threading.get_native_id())
    still = 0

    def at_rest() -> bool:
        nonlocal still
        states = {state(task) for task in Path("/proc/self/task").iterdir() if task.name != own}
        still = 0 if states & {"R", "D"} else still + 1
        return still == 25

    until(at_rest, "threads of C-core come to rest", PATIENCE)


async def inside(channel: Any) -> list[int]:
    """Statuses of children forked by a coroutine."""
    return [exit_status(forked(channel), PATIENCE) for _ in range(CHILDREN)]


async def over(target: str) -> None:
    """The life of another channel."""
    async with meshlib.aio.channel(target) as channel:
        await call(channel, b"before")


def main(state: str, addresses: list[str]) -> int:
    """Call, fork ten times, call again; 0 if all of that worked."""
    target = "static:///" + ",".join(addresses)
    channel = meshlib.aio.channel(target)
    loop = asyncio.new_event_loop()
    if state == "over":
        loop.run_until_complete(over(target))
        gc.collect()  # grpc.aio's poller ends with its last object
        quiet()
    if state == "inside":
        statuses = loop.run_until_complete(inside(channel))
    else:
        statuses = [exit_status(forked(channel), PATIENCE) for _ in range(CHILDREN)]
    loop.run_until_complete(call(channel, b"after"))
    loop.run_until_complete(channel.close())
    loop.close()
    print(f"children {statuses} parent ok")  # noqa: T201 - the test shows it
    return 0 if statuses == [0] * CHILDREN else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
