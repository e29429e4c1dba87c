"""A process with the real gevent: patches are rejected at the first channel, or do no harm. Never a hang.

usage: python -m tests.clients.gevent_client
"""

import os
import subprocess
import sys

from meshlib.testing import ProcessServer

DEADLINE = 120.0
"""Seconds for a process that takes one: nothing here waits."""

# ``order`` lists the steps of a process: an import, a patch, a channel, a call.
CHILD = """
import sys
import gevent.monkey
address, *order = sys.argv[1:]


def calls():
    import asyncio
    import meshlib.aio
    from meshlib.testing import echo
    for make in (
        lambda: meshlib.channel(f"static:///{address}", timeout=60),
        lambda: meshlib.channel(f"localhost:{address.rpartition(':')[2]}", timeout=60),
        lambda: meshlib.insecure_channel(address),
    ):
        try:
            with make() as channel:
                answer = channel.unary_unary(echo.UNARY)(b"hello", timeout=60)
            print("sync", answer.decode())
        except meshlib.ConfigError as refusal:
            print("sync refused", refusal)

    async def aio():
        async with meshlib.aio.channel(f"static:///{address}", timeout=60) as channel:
            return await channel.unary_unary(echo.UNARY)(b"hello")

    try:
        print("aio", asyncio.run(aio()).decode())
    except meshlib.ConfigError as refusal:
        print("aio refused", refusal)


for step in order:
    exec(step)
"""

# Steps before the calls, and the module that the error names.
REFUSED: dict[tuple[str, ...], str] = {
    ("gevent.monkey.patch_all()", "import meshlib"): "threading, queue, select, selectors",
    ("gevent.monkey.patch_all(thread=False)", "import meshlib"): "queue, select, selectors",
    ("gevent.monkey.patch_all(select=False)", "import meshlib"): "threading, queue",
    ("gevent.monkey.patch_all(thread=False, select=False)", "import meshlib"): "queue",
    ("gevent.monkey.patch_thread()", "import meshlib"): "threading",
    ("gevent.monkey.patch_thread(threading=False)", "import meshlib"): "threading",  # _thread, and some of threading
    ("gevent.monkey.patch_queue()", "import meshlib"): "queue",
    ("gevent.monkey.patch_select()", "import meshlib"): "select",
    ("gevent.monkey.patch_selectors()", "import meshlib"): "selectors",
    ("import meshlib", "gevent.monkey.patch_all()"): "threading, queue, select, selectors",
    ("import meshlib, meshlib.aio; meshlib.Channel, meshlib.aio.Channel", "gevent.monkey.patch_all(thread=False)"): (
        "queue, select, selectors"
    ),
}
SERVED: list[tuple[str, ...]] = [
    ("import gevent, gevent.pool, gevent.queue, gevent.threadpool", "import meshlib"),
    ("gevent.spawn(print, end='').join()", "import meshlib"),  # a hub in this thread
    ("gevent.monkey.patch_all(thread=False, select=False, queue=False)", "import meshlib"),
    *(
        (f"gevent.monkey.patch_{module}()", "import meshlib")
        for module in ("socket", "dns", "time", "os", "ssl", "subprocess", "signal")
    ),
]


def ran(address: str, *order: str) -> list[str]:
    """The output lines of a separate process, which is killed if it hangs."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, address, *order],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},  # gevent warns of grpc's threads if it is imported late
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, f"{order}: exit {done.returncode}\n{done.stdout}"
    return done.stdout.splitlines()


def main() -> None:
    """Run each case in a separate process, against one server in another."""
    with ProcessServer() as server:
        for order, names in REFUSED.items():
            lines = ran(server.address, *order, "calls()")
            refusals = [line for line in lines if f" refused gevent='patched {names}': meshlib needs real thr" in line]
            assert len(lines) == len(refusals) == 4, f"{order}: {lines}"
            print(f"gevent: refused after {'; '.join(order)}")  # noqa: T201 - what the session shows
        for order in SERVED:
            lines = ran(server.address, *order, "calls()")
            assert lines == ["sync hello"] * 3 + ["aio hello"], f"{order}: {lines}"
            print(f"gevent: calls work after {'; '.join(order)}")  # noqa: T201 - what the session shows


if __name__ == "__main__":
    main()
