"""Calls that no server has processed, and how far a client can know that."""

import asyncio
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from tests.e2e.callers import caller
from tests.e2e.certificates import TRUST, tls_server
from tests.e2e.kinds import KINDS, all_answers, expected, starters
from tests.e2e.load import SHELLS, Shell
from tests.e2e.refusing import How, RefusingServer

import meshlib
from meshlib.testing import Server, echo, servers

PATIENCE = 10.0
both_shells = pytest.mark.parametrize("shell", SHELLS)
POLICIES = [None, meshlib.RetryPolicy(unsent_only=True)]


def told(mesh: Any) -> list[tuple[str, bool]]:
    """The reason of each attempt, and whether it may have been processed."""
    return [(attempt.why, attempt.sent) for attempt in mesh.attempts]


@both_shells
@pytest.mark.parametrize("how", ["REFUSED_STREAM", "GOAWAY"])
async def test_a_refused_stream_goes_to_another_host(shell: Shell, how: How) -> None:
    """A refused stream is retried like one with a lost connection, since C-core does not reveal that it was not
    processed."""
    with RefusingServer(how) as refusing, Server() as server:
        async with caller(shell, name=f"static:///{refusing.address},{server.address}") as it:
            await it.ready(2)
            seen = []
            while refusing.refused == 0 or len(seen) < 8:
                seen.append(told((await it.unary(wait_for_ready=True))[1]))
        assert [("first", True), ("retry", True)] in seen
        assert server.calls[echo.UNARY] == len(seen)


@both_shells
@pytest.mark.parametrize("kind", KINDS)
async def test_a_refused_stream_of_each_kind(shell: Shell, kind: str) -> None:
    """Streams of each kind are retried too: no part of an answer has arrived."""
    with RefusingServer("REFUSED_STREAM") as refusing, Server() as server:
        async with caller(shell, name=f"static:///{refusing.address},{server.address}") as it:
            await it.ready(2)
            start = starters(it.channel, shell)[kind]
            requests = [b"x"] if kind.startswith("unary") else [b"x", b"y"]
            for _ in range(4):
                call = start(requests, timeout=PATIENCE)
                assert await all_answers(shell, kind, call) == expected(kind, requests)
        assert refusing.refused > 0


@both_shells
@pytest.mark.parametrize("retry", POLICIES, ids=["retry=None", "unsent_only"])
@pytest.mark.parametrize("how", ["REFUSED_STREAM", "GOAWAY"])
async def test_a_refused_stream_is_not_repeated_where_retries_are_ruled_out(
    shell: Shell, how: How, retry: meshlib.RetryPolicy | None
) -> None:
    """meshlib makes one attempt, which may have run as far as a client can know."""
    with RefusingServer(how) as refusing:
        async with caller(shell, name=f"static:///{refusing.address}", retry=retry) as it:
            await it.ready(1)
            error = await it.failure()
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert told(error.mesh) == [("first", True)]


@both_shells
@pytest.mark.parametrize("retry", POLICIES, ids=["retry=None", "unsent_only"])
@pytest.mark.parametrize(
    "words",
    [
        "GOAWAY received; Error code: 0; Debug Text: max_age",
        "Stream removed (RST_STREAM (Received RST_STREAM with error code 7))",
    ],
)
async def test_a_server_that_passes_on_such_words_is_called_once(
    shell: Shell, words: str, retry: meshlib.RetryPolicy | None
) -> None:
    """A gateway may abort with the details of a call of its own, after it has done its work."""
    with servers(2) as both:
        for server in both:
            server.fault(code="UNAVAILABLE", details=words)
        async with caller(shell, *both, retry=retry) as it:
            await it.ready(2)
            error = await it.failure(wait_for_ready=True)
        assert told(error.mesh) == [("first", True)]
        assert sum(server.calls[echo.UNARY] for server in both) == 1


class Plugin(grpc.AuthMetadataPlugin):
    """A credentials plug-in that fails.

    Args:
        how: it raises, reports an error, or gives metadata that cannot be sent.
    """

    def __init__(self, how: str) -> None:
        self._how = how
        self.asked = 0

    def __call__(self, context: Any, callback: Any) -> None:
        self.asked += 1
        if self._how == "raises":
            raise ValueError("no token")
        if self._how == "reports":
            callback((), RuntimeError("no token"))
        else:
            callback((("BAD KEY", "x"),), None)


@pytest.fixture(scope="module")
def grpc_is_up() -> Iterator[None]:
    """grpc.aio never frees the objects of a call whose credentials plug-in failed, even with a channel made by grpc
    itself. While grpc is up its pollers are not a leak."""
    with Server():
        yield


@both_shells
@pytest.mark.usefixtures("grpc_is_up")
@pytest.mark.parametrize("how", ["raises", "reports", "illegal"])
async def test_a_credentials_plugin_that_fails_says_nothing_of_a_host(shell: Shell, how: str) -> None:
    """Such a call is not sent, not retried, and counted against no host, however often."""
    plugin = Plugin(how)
    credentials = grpc.metadata_call_credentials(plugin)
    detection = meshlib.OutlierDetection(consecutive_gateway_failure=2)
    with tls_server("localhost") as server:
        name = f"static:///localhost:{server.port}"
        async with caller(shell, name=name, credentials=TRUST, outlier_detection=detection) as it:
            await it.ready(1)
            for n in range(1, 7):
                error = await it.failure(credentials=credentials)
                assert error.code() is grpc.StatusCode.UNAVAILABLE
                assert told(error.mesh) == [("first", False)]
                assert error.mesh.local
                assert plugin.asked == n
            (host,) = it.hosts
            assert (host.failures, host.ejected_for, it.channel.mesh.snapshot().retries) == (0, "", 0)
            await it.unary()
        assert server.calls.total() == 1


@both_shells
async def test_a_request_that_is_too_large_was_never_sent(shell: Shell) -> None:
    """C-core rejects it locally, whatever the policy retries."""
    retry = meshlib.RetryPolicy(retryable_status_codes=["RESOURCE_EXHAUSTED"])  # type: ignore[arg-type]
    with servers(1) as (server,):
        options = [("grpc.max_send_message_length", 4)]
        async with caller(shell, server, options=options, retry=retry) as it:
            await it.ready(1)
            stub = it.channel.unary_unary(echo.UNARY)
            call = asyncio.to_thread(stub, b"x" * 100) if shell == "sync" else stub(b"x" * 100, timeout=PATIENCE)
            with pytest.raises(grpc.RpcError) as caught:
                await call
            assert told(caught.value.mesh) == [("first", False)]  # type: ignore[attr-defined]
        assert server.calls.total() == 0
