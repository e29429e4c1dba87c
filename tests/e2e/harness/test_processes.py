"""Test servers in a process of their own: killed, terminated, paused, and ended with their parent."""

import os
import signal
import socket
import subprocess
import sys

import pytest
from tests.e2e.harness.serving import DEADLINE, channel_to, code_of, unary

from meshlib.testing import ProcessServer, ServerTls, echo


def test_a_killed_process_tells_what_it_was_doing() -> None:
    """kill -9 inside handlers: the calls end as UNAVAILABLE, their ids are recorded, and retries are counted twice."""
    with ProcessServer(name="p") as server, channel_to(server) as channel:
        unary(channel, request_id="done")
        held = [
            channel.unary_unary(echo.UNARY).future(
                b"x", timeout=DEADLINE, metadata=((echo.REQUEST_ID, f"held-{n}"), (echo.DELAY_MS, "9000"))
            )
            for n in range(8)
        ]
        server.wait_until(lambda server: len(server.unfinished) == 8)
        lost = server.kill()
        assert lost == {f"held-{n}" for n in range(8)}
        assert {code_of(call) for call in held} == {"UNAVAILABLE"}
        assert not server.running

        address = server.address
        server.start()
        server.start()
        assert server.address == address
        metadata = ((echo.REQUEST_ID, "held-0"),)
        _, call = channel.unary_unary(echo.UNARY).with_call(
            b"x", timeout=DEADLINE, metadata=metadata, wait_for_ready=True
        )
        assert tuple(call.initial_metadata()) == ((echo.SERVER_NAME, "p"),)
        server.wait_until(lambda server: not server.unfinished)
        assert server.executions == {"done": 1, "held-0": 2} | {f"held-{n}": 1 for n in range(1, 8)}


def test_a_terminated_process_ends_its_calls_first() -> None:
    """SIGTERM is graceful: the call in flight is answered, new connections are refused, the exit status is 0."""
    with ProcessServer(grace=DEADLINE) as server, channel_to(server) as channel:
        call = channel.unary_unary(echo.UNARY).future(
            b"x", timeout=DEADLINE, metadata=((echo.REQUEST_ID, "1"), (echo.DELAY_MS, "200"))
        )
        server.wait_until(lambda server: server.unfinished == {"1"})
        assert server.terminate() == frozenset()
        assert call.result(DEADLINE) == b"x"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), timeout=1)


def test_a_paused_process_is_silent_and_goes_on() -> None:
    """SIGSTOP: a call gets no answer and no refusal; after SIGCONT it is answered."""
    with ProcessServer() as server, channel_to(server) as channel:
        unary(channel)
        server.pause()
        assert code_of(lambda: unary(channel, timeout=0.2)) == "DEADLINE_EXCEEDED"
        call = channel.unary_unary(echo.UNARY).future(b"x", timeout=DEADLINE)
        server.resume()
        assert call.result(DEADLINE) == b"x"
        server.pause()  # close() must still end it


def test_processes_fail_to_start_with_their_own_words() -> None:
    """The child's output is in the error, and nothing is left of it."""
    with pytest.raises(RuntimeError, match=r"(?s)ended with status 1:.*Traceback"):
        ProcessServer(tls=ServerTls(b"no key", b"no certificate"))


def test_the_program_ends_with_its_parent() -> None:
    """``--until-eof``: when the pipe on standard input ends, so does the server, which has reported itself ready."""
    command = [sys.executable, "-m", "meshlib.testing.servers", "--until-eof", "--grace=0"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"ready 127.0.0.1:")
        process.stdin.close()
        assert process.wait(DEADLINE) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_program_ends_on_signals(number: signal.Signals) -> None:
    """SIGINT and SIGTERM, from a terminal or a supervisor, are an orderly end, with status 0 and no traceback."""
    command = [sys.executable, "-m", "meshlib.testing.servers"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        _, errors = process.communicate(timeout=DEADLINE)
        assert (process.returncode, errors) == (0, b"")
