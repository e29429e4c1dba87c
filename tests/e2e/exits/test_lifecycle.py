"""A channel ends what it starts: threads, descriptors and waits, at close, at exit and when it is collected."""

import gc
import subprocess
import sys
import threading
import time
from contextlib import suppress
from random import Random

import grpc
import pytest
from tests.interruption import count, interrupt, points
from tests.waiting import until

import meshlib
from meshlib._sync import control
from meshlib.testing import DnsServer, Server, echo


def _control_threads() -> int:
    return sum(thread.name == "meshlib-control" for thread in threading.enumerate())


def test_a_channel_begins_nothing_before_its_first_call() -> None:
    """No thread and no grpc object: it may be built before a fork, and at import."""
    before = threading.active_count()
    channel = meshlib.channel("svc-a")
    assert threading.active_count() == before
    assert channel.mesh.snapshot().state == "IDLE"
    channel.close()
    assert channel.mesh.snapshot().state == "SHUTDOWN"


def test_one_control_thread_serves_all_channels_and_ends_after_the_last() -> None:
    """The thread is the process's, not a channel's; it stays for a moment, for programs with a channel per call."""
    with Server() as server:
        channels = [meshlib.channel(f"static:///{server.address}") for _ in range(3)]
        for channel in channels:
            assert channel.unary_unary(echo.UNARY)(b"x", timeout=5) == b"x"
        assert _control_threads() == 1
        for channel in channels[:2]:
            channel.close()
        assert channels[2].unary_unary(echo.UNARY)(b"x", timeout=5) == b"x"
        assert _control_threads() == 1
        (thread,) = [thread for thread in threading.enumerate() if thread.name == "meshlib-control"]
        for _ in range(3):
            channels.pop().close()
            channels.append(meshlib.channel(f"static:///{server.address}"))
            assert channels[-1].unary_unary(echo.UNARY)(b"x", timeout=5) == b"x"
            assert [thread] == [one for one in threading.enumerate() if one.name == "meshlib-control"]
        channels.pop().close()
        until(lambda: _control_threads() == 0, "the control thread has ended")


def test_a_hundred_cycles_leave_nothing() -> None:
    """Open, call, close: the check around every test compares threads and descriptors afterwards."""
    with Server() as server:
        for _ in range(100):
            with meshlib.channel(f"static:///{server.address}") as channel:
                assert channel.unary_unary(echo.UNARY)(b"x", timeout=5) == b"x"
        until(lambda: _control_threads() == 0, "the control thread has ended")


def test_a_channel_that_is_collected_unclosed_closes_itself() -> None:
    """An unclosed channel closes when it is collected, as grpc's own does; a multicallable keeps it alive."""
    with Server() as server:
        unary = meshlib.channel(f"static:///{server.address}").unary_unary(echo.UNARY)
        gc.collect()
        assert unary(b"x", timeout=5) == b"x"
        del unary
        gc.collect()
        until(lambda: _control_threads() == 0, "the control thread has ended")


@pytest.mark.parametrize("wait_for_ready", [False, True])
def test_close_ends_a_call_that_waits_for_a_name_server(wait_for_ready: bool) -> None:
    """Close ends it at once as CANCELLED, as grpc does, and cancels the lookup."""
    with DnsServer() as dns:
        dns.fault(drop=True)
        channel = meshlib.channel(f"dns://{dns.address}/svc-a.test:1")
        errors: list[grpc.RpcError] = []

        def call() -> None:
            try:
                channel.unary_unary(echo.UNARY)(b"x", timeout=30, wait_for_ready=wait_for_ready)
            except grpc.RpcError as error:
                errors.append(error)

        caller = threading.Thread(target=call)
        caller.start()
        dns.wait_for_queries(1)
        started = time.monotonic()
        channel.close()
        caller.join(5)
        assert not caller.is_alive()
        assert time.monotonic() - started < 4
        assert errors[0].code() is grpc.StatusCode.CANCELLED
        assert errors[0].mesh.local


def test_close_ends_a_call_in_its_back_off() -> None:
    """Close ends a call in the wait before a retry like any other wait."""
    with Server() as server:
        server.fault(code="UNAVAILABLE")
        retry = meshlib.RetryPolicy(initial_backoff=30.0, max_backoff=30.0)
        channel = meshlib.channel(f"static:///{server.address}", retry=retry)
        errors: list[grpc.RpcError] = []

        def call() -> None:
            try:
                channel.unary_unary(echo.UNARY)(b"x")
            except grpc.RpcError as error:
                errors.append(error)

        caller = threading.Thread(target=call)
        caller.start()
        server.wait_until(lambda s: s.calls[echo.UNARY] == 1)
        until(lambda: channel.mesh.snapshot().retries_held == 1, "the call backs off")
        channel.close()
        caller.join(5)
        assert not caller.is_alive()
        assert errors[0].code() is grpc.StatusCode.CANCELLED


class SoftTimeLimitError(Exception):
    """Raised by a signal handler."""


@pytest.mark.skipif(sys.gettrace() is not None, reason="coverage traces, too")
def test_an_exception_in_the_middle_of_a_close_leaves_no_control_thread(rng: Random) -> None:
    """At every point from the moment the channel counts as closed, the thread is left to end."""

    def expire() -> None:
        raise SoftTimeLimitError

    with Server() as server:

        def opened() -> meshlib.Channel:
            channel = meshlib.channel(f"static:///{server.address}")
            assert channel.unary_unary(echo.UNARY)(b"x", timeout=5) == b"x"
            return channel

        total = count(opened().close, ("_sync",))
        for at in points(total, rng):
            channel = opened()
            runtime = channel._plain.lease.present  # type: ignore[attr-defined]
            with suppress(SoftTimeLimitError):
                interrupt(channel.close, at, expire, ("_sync",))
            if not runtime.closed:
                channel.close()
            until(lambda: control.current().idle, f"nothing is attached after point {at} of {total}")
            thread = control.current()._control
            assert thread is None or thread.lingers, f"point {at} of {total}"
        until(lambda: _control_threads() == 0, "the control thread has ended")


def test_close_ends_the_control_plane_of_the_last_channel_before_it_returns() -> None:
    """The thread may stay for the next channel; its work for the closed one has ended."""
    with Server() as server:
        channel = meshlib.channel(f"static:///{server.address}")
        assert channel.unary_unary(echo.UNARY)(b"x", timeout=5) == b"x"
        driver = channel._plain.lease.present.driver  # type: ignore[attr-defined]
        channel.close()
        assert driver._stopped
        assert _control_threads() == 1


def test_close_ends_a_call_inside_a_server() -> None:
    """The call ends as with grpc: CANCELLED, Channel closed!"""
    with Server() as server:
        channel = meshlib.channel(f"static:///{server.address}")
        errors: list[grpc.RpcError] = []

        def call() -> None:
            try:
                channel.unary_unary(echo.UNARY)(b"x", metadata=((echo.DELAY_MS, "20000"),))
            except grpc.RpcError as error:
                errors.append(error)

        caller = threading.Thread(target=call)
        caller.start()
        server.wait_until(lambda s: s.in_flight == 1)
        channel.close()
        caller.join(5)
        assert not caller.is_alive()
        assert (errors[0].code(), errors[0].details()) == (grpc.StatusCode.CANCELLED, "Channel closed!")


def test_closing_twice_and_calling_afterwards_are_as_in_grpc() -> None:
    """The second close does nothing; a call raises ValueError."""
    channel = meshlib.channel("static:///127.0.0.1:1")
    channel.close()
    channel.close()
    with pytest.raises(ValueError, match="closed channel"):
        channel.unary_unary(echo.UNARY)(b"x")


EXIT = """
import sys, threading
import meshlib
from meshlib.testing import echo
channel = meshlib.channel("static:///" + sys.argv[1])
unary = channel.unary_unary(echo.UNARY)
assert unary(b"x", timeout=10) == b"x"
if sys.argv[2] == "busy":
    threading.Thread(target=lambda: unary(b"x", metadata=((echo.DELAY_MS, "60000"),)), daemon=True).start()
    future = unary.future(b"x", metadata=((echo.DELAY_MS, "60000"),))
print("end", flush=True)
"""


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_a_program_that_closes_nothing_ends(state: str) -> None:
    """Exit without close never hangs, whatever is in flight."""
    with Server() as server:
        run = subprocess.run(
            [sys.executable, "-c", EXIT, server.address, state],
            capture_output=True,
            text=True,
            timeout=30,
            env={"PYTHONPATH": ":".join(sys.path)},
            check=False,
        )
    assert (run.returncode, run.stdout) == (0, "end\n"), run.stderr
