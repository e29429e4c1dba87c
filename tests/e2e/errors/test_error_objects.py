"""Applications read rich errors, copy and pickle them, pass them on, and drop them."""

import asyncio
import copy
import gc
import pickle
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from google.api_core import exceptions
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from tests.e2e.callers import QUICK, caller
from tests.e2e.errors.failures import failure, static
from tests.e2e.load import SHELLS, Shell

import meshlib
from meshlib.testing import echo, servers

both_shells = pytest.mark.parametrize("shell", SHELLS)

DETAILS = "no such order: 7"
THREE = meshlib.RetryPolicy(max_attempts=3, retryable_status_codes=["NOT_FOUND", "UNAVAILABLE"], **QUICK)  # type: ignore[arg-type]


def rich() -> bytes:
    """``google.rpc.Status`` as a server sends it."""
    status = status_pb2.Status(code=grpc.StatusCode.NOT_FOUND.value[0], message=DETAILS)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="GONE", domain="shop"))
    return status.SerializeToString()


@contextmanager
def failing(retry: meshlib.RetryPolicy | None, shell: Shell) -> Iterator[Any]:
    """The error of a call that a server ended with a rich status, after one attempt or three."""
    with servers(1) as (server,):
        trailers = (("grpc-status-details-bin", rich()),)
        server.fault(code="NOT_FOUND", details=DETAILS, trailing_metadata=trailers)
        yield failure(shell, static(server), retry=retry).error


@both_shells
@pytest.mark.parametrize("retry", [None, THREE], ids=["one attempt", "three"])
def test_a_rich_error_can_be_read(shell: Shell, retry: meshlib.RetryPolicy | None) -> None:
    """``grpc_status`` and ``google.api_core`` compare the details with the message of the status."""
    with failing(retry, shell) as error:
        assert len(error.mesh.attempts) == (1 if retry is None else 3)
        assert error.details() == DETAILS
        if shell == "sync":
            status = rpc_status.from_call(error)
            assert status is not None
            assert status.message == DETAILS
        made = exceptions.from_grpc_error(error)
        assert isinstance(made, exceptions.NotFound)
        assert (made.message, made.reason, made.domain) == (DETAILS, "GONE", "shop")


def test_a_rich_error_of_a_future_and_of_a_stream_can_be_read() -> None:
    """Futures and streams raise themselves; their rich errors can be read."""
    with servers(1) as (server,):
        server.fault(code="NOT_FOUND", details=DETAILS, trailing_metadata=(("grpc-status-details-bin", rich()),))
        with meshlib.channel(static(server), retry=THREE) as channel:
            future = channel.unary_unary(echo.UNARY).future(b"x", timeout=10)
            stream = channel.unary_stream(echo.SERVER_STREAM)(b"x", timeout=10)
            for call, read in ((future, future.result), (stream, lambda: next(stream))):
                with pytest.raises(grpc.RpcError):
                    read()
                assert rpc_status.from_call(call).message == DETAILS
                assert "after 3 attempts on 1 endpoint" in str(call)
                assert server.address in call.debug_error_string()


@both_shells
def test_details_have_no_address_and_the_text_has(shell: Shell) -> None:
    """Applications pass details on to their own callers; the text of the error is for the log."""
    with failing(THREE, shell) as error:
        host = error.mesh.attempts[-1].host
        story = f"NOT_FOUND after 3 attempts on 1 endpoint ({error.mesh.why}); last: {host} {DETAILS}"
        assert error.details() == DETAILS
        assert str(error) == story
        assert error.debug_error_string().startswith(story)


@both_shells
def test_errors_are_copied_and_pickled(shell: Shell) -> None:
    """A copy has the same class and content, including ``.mesh``."""
    with failing(THREE, shell) as error:
        for other in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
            assert type(other) is type(error)
            assert str(other) == str(error)
            assert (other.code(), other.details()) == (error.code(), error.details())
            assert list(other.trailing_metadata()) == list(error.trailing_metadata())
            assert other.debug_error_string() == error.debug_error_string()
            assert other.mesh.attempts == error.mesh.attempts
            assert other.mesh.why == error.mesh.why
            with pytest.raises(grpc.RpcError):
                raise other


@both_shells
def test_an_error_without_an_attempt_is_copied_and_pickled(shell: Shell) -> None:
    """A rejection by meshlib has no server's error behind it, and can be copied too."""
    error = failure(shell, "static:///127.0.0.1:1", timeout=0.05, wait_for_ready=True).error
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (type(other), str(other), other.mesh.local) == (type(error), str(error), True)


# --- deadlines ---


@both_shells
async def test_a_deadline_in_the_middle_of_an_attempt(shell: Shell) -> None:
    """The details name method and target; the text names the host, too."""
    with servers(1) as (server,):
        server.fault(hang=True)
        name = f"static:///localhost:{server.port}"
        async with caller(shell, name=name) as it:
            await it.ready(1)
            error = await it.failure(timeout=0.2)
            (host,) = it.hosts
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert error.details() == f"Deadline Exceeded: {echo.UNARY} on {name!r}"
        assert host.address in str(error)
        assert [(attempt.code, attempt.sent) for attempt in error.mesh.attempts] == [("DEADLINE_EXCEEDED", True)]


@both_shells
def test_a_deadline_while_no_host_is_ready(shell: Shell) -> None:
    """The details count the hosts by state, the text lists them."""
    with servers(2) as both:
        for server in both:
            server.stop()
        target = f"static:///localhost:{both[0].port},localhost:{both[1].port}"
        error = failure(shell, target, timeout=0.3, wait_for_ready=True).error
    assert error.details().startswith(f"Deadline Exceeded: {echo.UNARY} on {target!r}: no endpoint of ")
    assert "127.0.0.1" not in error.details()
    assert f"127.0.0.1:{both[0].port} " in str(error)


@both_shells
def test_a_deadline_that_a_server_reports_stays_as_it_is(shell: Shell) -> None:
    """The server's details are kept."""
    with servers(1) as (server,):
        server.fault(code="DEADLINE_EXCEEDED", details="the database was slow")
        failed = failure(shell, static(server))
    assert failed.details == "the database was slow"


def test_a_deadline_of_a_future_and_of_a_stream() -> None:
    """Futures and streams give the same details."""
    with servers(1) as (server,):
        server.fault(hang=True)
        with meshlib.channel(static(server)) as channel:
            grpc.channel_ready_future(channel).result(10.0)  # else a busy machine may have no host to name
            future = channel.unary_unary(echo.UNARY).future(b"x", timeout=0.2)
            stream = channel.unary_stream(echo.SERVER_STREAM)(b"x", timeout=0.2)
            for call, method in ((future, echo.UNARY), (stream, echo.SERVER_STREAM)):
                assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                assert call.details() == f"Deadline Exceeded: {method} on {static(server)!r}"
                assert server.address in str(call).rpartition("last:")[2]


# --- hedges ---


@both_shells
async def test_the_loser_of_a_hedge_is_cancelled(shell: Shell) -> None:
    """The loser is cancelled at once, whenever grpc reports its end."""
    with servers(2) as (slow, fast):
        slow.fault(hang=True)
        codes = {slow.address: "CANCELLED", fast.address: "OK"}  # on a busy machine a hedge may go to the slow one
        policy = meshlib.HedgingPolicy(max_attempts=2, hedging_delay=0.02)
        async with caller(shell, slow, fast, retry=policy) as it:
            await it.ready(2)
            meshes = [(await it.unary())[1] for _ in range(4)]
            hedged = [mesh for mesh in meshes if len(mesh.attempts) == 2]
            assert hedged
            for mesh in hedged:
                assert {attempt.host: attempt.code for attempt in mesh.attempts} == codes


# --- memory ---


class Local:
    """A local variable of a caller."""


@contextmanager
def no_collection() -> Iterator[None]:
    """Turn off the cyclic collector, so that only objects outside of cycles are freed."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _calls(channel: Any) -> dict[str, Callable[[], Any]]:
    """Failing calls, of every kind that raises an error other than the call itself, and of a future."""
    unary = channel.unary_unary(echo.UNARY)
    return {
        "unary": lambda: unary(b"x", timeout=10),
        "with_call": lambda: unary.with_call(b"x", timeout=10),
        "future": lambda: unary.future(b"x", timeout=10).result(),
        "stream_unary": lambda: channel.stream_unary(echo.CLIENT_STREAM)(iter([b"x"]), timeout=10),
        "unary_stream": lambda: list(channel.unary_stream(echo.SERVER_STREAM)(b"x", timeout=10)),
    }


@pytest.mark.parametrize("retry", [None, THREE], ids=["one attempt", "three"])
@pytest.mark.parametrize("code", ["NOT_FOUND", "UNAVAILABLE"])
@pytest.mark.parametrize("kind", ["unary", "with_call", "future", "stream_unary", "unary_stream"])
def test_an_error_frees_its_callers_variables(kind: str, code: str, retry: meshlib.RetryPolicy | None) -> None:
    """Handling an error frees the variables as with grpc, without a cyclic collection."""
    with servers(1) as (server,):
        server.fault(code=code)
        with meshlib.channel(static(server), retry=retry) as channel:
            call = _calls(channel)[kind]
            assert _freed(call)


def _freed(call: Callable[[], Any]) -> bool:
    kept: list[weakref.ref[Local]] = []

    def use() -> None:
        local = Local()
        kept.append(weakref.ref(local))
        try:
            call()
        except grpc.RpcError:
            return

    with no_collection():
        use()
        return kept[0]() is None


@pytest.mark.parametrize("retry", [None, THREE], ids=["one attempt", "three"])
@pytest.mark.parametrize("kind", ["unary", "stream"])
async def test_an_error_frees_its_callers_variables_in_asyncio(kind: str, retry: meshlib.RetryPolicy | None) -> None:
    """The same for a task."""
    kept: list[weakref.ref[Local]] = []
    with servers(1) as (server,):
        server.fault(code="UNAVAILABLE")
        async with meshlib.aio.channel(static(server), retry=retry) as channel:

            async def use() -> None:
                local = Local()
                kept.append(weakref.ref(local))
                try:
                    if kind == "unary":
                        await channel.unary_unary(echo.UNARY)(b"x", timeout=10)
                    else:
                        async for _ in channel.unary_stream(echo.SERVER_STREAM)(b"x", timeout=10):
                            pass
                except grpc.RpcError:
                    return

            with no_collection():
                await asyncio.create_task(use())
                assert kept[0]() is None
