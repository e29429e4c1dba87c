"""Blocking calls with one request and one response: the hot path.

Without hedging at most one attempt is in flight, so it runs as a blocking call on the caller's thread: no queue, no
hop, no future. ``future().result()`` would cost two and a half times the CPU.

After blocking on I/O the CPU caches are cold: an instruction of the interpreter takes several times as long as in a
tight loop. So only the number of instructions matters, and ``tests/e2e/resources/test_hot_path.py`` counts them:

- The plan, multicallables and attributes of a method are made once.
- State that few calls need is made on demand, and is a class attribute until then
  (:class:`~meshlib._core.call.Call`, :class:`~meshlib._core.attempt.AttemptRecord`).
- A success at the first attempt returns the shared constant ``ANSWERED``, so that nothing is allocated.
- The states of hosts are polled on the calling thread. Without a provider, no telemetry code runs.
- grpc's own Python code is reduced to the needs of a blocking call
  (:class:`~meshlib._adapt.grpcio.BlockingUnaryUnary`).
- Arguments are positional, since CPython matches keywords one by one.
"""

import logging
from functools import partial
from typing import Any

import grpc

from meshlib._adapt import outcomes
from meshlib._adapt.errors import MeshRpcError
from meshlib._adapt.metadata import INVALID_METADATA, Metadata, for_attempt, valid
from meshlib._control.methods import Method
from meshlib._core.call import Call
from meshlib._core.commands import ANSWERED, Finish, StartAttempt
from meshlib._core.deadlines import LONGEST, far
from meshlib._core.policy import Plan
from meshlib._core.status import OK, Outcome, local
from meshlib._core.view import CallMesh
from meshlib._sync.control import gate
from meshlib._sync.runtime import INSIDE_LOOP, ChannelHandle, Runtime
from meshlib._sync.subchannels import Subchannel

__all__ = ["blocking", "failure", "serialized", "unserialized"]

_log = logging.getLogger("meshlib")

UNSERIALIZED = local("INTERNAL", "Exception serializing request!")
RAISED = Outcome("CANCELLED", "the call ended with an exception that was raised inside it", local=True)


def serialized(request: Any, method: Method) -> Any:
    """The request as bytes, serialized once for all attempts.

    Raises:
        MeshRpcError: the serializer failed; the status is INTERNAL, with grpc's text.
    """
    if method.serializer is None:
        return request
    try:
        data = method.serializer(request)
    except Exception:  # noqa: BLE001 - it is the application's
        _log.exception("%s: the request serializer raised", method.name)
        data = None
    if data is None:
        raise MeshRpcError(UNSERIALIZED, UNSERIALIZED.details, None)
    return data


def unserialized(lease: ChannelHandle, method: Method, metadata: Metadata, error: MeshRpcError) -> None:
    """Record a call that ended with ``error`` before its first attempt: its request could not be serialized."""
    if lease.closed:
        return
    runtime = lease.runtime()
    call = Call(runtime.cluster, lease.plans[method.name], method.name, metadata)
    now = runtime.now()
    runtime.telemetry.call_started(call, (), now)
    call.on_cancel(UNSERIALIZED, now=now)
    runtime.telemetry.call_ended(call, UNSERIALIZED, now)
    error.mesh = CallMesh(call, UNSERIALIZED)


def blocking(
    runtime: Runtime,
    method: Method,
    plan: Plan,
    data: Any,
    timeout: float | None,
    metadata: Metadata,
    credentials: grpc.CallCredentials | None,
    wait_for_ready: bool | None,
    compression: grpc.Compression | None,
    with_call: bool,
) -> Any:
    """Perform one call on the calling thread; return the response, or with ``with_call`` the response and the call.

    Raises:
        grpc.RpcError: the call failed.
        TypeError: the metadata is of a wrong type.
        ValueError: the metadata is not a sequence of pairs.
    """
    # grpc would raise the same, but never free the call: its connection outlives a closed channel.
    sendable = not metadata or valid(metadata)
    now = runtime.now
    started = now()
    if timeout is None:
        timeout = plan.timeout
    call = Call(
        runtime.cluster,
        plan,
        method.name,
        metadata,
        None if timeout is None else due if (due := started + timeout) <= LONGEST else far(started, timeout),
        plan.wait_for_ready if wait_for_ready is None else wait_for_ready,
    )
    telemetry = runtime.telemetry
    told = False
    try:
        sent = telemetry.call_started(call, metadata, started)
        commands = call.begin(started) if sendable else call.on_cancel(INVALID_METADATA, now=started)
        while True:
            if not commands:
                waited = runtime.wait(call)
                ended = now()
                if not waited:
                    commands = call.on_cancel(INSIDE_LOOP, now=ended)
                    continue
                commands = call.on_endpoints(now=ended) if call.woken else call.on_timer(now=ended)
                continue
            command = commands[0]
            if type(command) is not StartAttempt:
                break
            if gate.closed:
                gate.wait()
            attempt = command.record
            subchannel: Any = attempt.host.subchannel
            try:
                send = subchannel.multicallables[method]
                if with_call:
                    send = send.with_call
                carried = sent or None
                if attempt.previous or attempt.carrier:
                    carried = for_attempt(sent, attempt.previous, attempt.carrier)
                result = send(data, attempt.timeout, carried, credentials, None, compression)
            except grpc.RpcError as error:
                if not hasattr(error, "trailing_metadata"):
                    raise  # an interceptor's own
                outcome = attempt_failed(error, subchannel)
            else:
                outcome = OK
            ended = now()
            commands = call.on_outcome(attempt.n, outcome, ended)
            if commands is ANSWERED:
                if telemetry.listens:
                    told = True
                    telemetry.call_ended(call, OK, ended)
                if with_call:
                    result[1].mesh = CallMesh(call, OK)
                return result
        assert type(command) is Finish
        told = True
        telemetry.call_ended(call, command.outcome, now())
        if command.outcome.code == "OK":
            if with_call:
                result[1].mesh = CallMesh(call, command.outcome)
            return result
        raise failure(call, command.outcome)
    except BaseException:
        # Bad metadata, a closed channel, an interceptor, or a signal handler's exception between any two lines: the
        # caller gets the exception, and the host's in-flight count is decremented.
        if not told:
            try:
                abandon(runtime, call)
            except BaseException:
                runtime.soon(partial(abandon, runtime, call))  # a second exception interrupted it
                raise
        raise


def abandon(runtime: Runtime, call: Call) -> None:
    """End a call that an exception interrupted, and which may be half ended. No retry follows."""
    now = runtime.now()
    for attempt in call.abandon(RAISED, now=now):
        call.on_outcome(attempt.n, RAISED, now)
    runtime.telemetry.call_ended(call, RAISED, now)


def attempt_failed(error: Any, subchannel: Subchannel) -> Outcome:
    """The outcome of an attempt that failed with ``error``."""
    trailing = error.trailing_metadata()
    return outcomes.failed(error, subchannel.target, trailing)


def failure(call: Call, outcome: Outcome) -> grpc.RpcError:
    """The error of a failed call: grpc's own if it belongs to the only attempt, else one that describes all of them.

    The call releases its errors. One that holds the call by ``.mesh`` would be in a cycle with it, and keep the
    frames of its caller alive until the next cyclic collection.
    """
    mesh = CallMesh(call, outcome)
    error: Any = outcome.error
    details = call.details(outcome)
    if error is None or len(call.attempts) > 1 or details != outcome.details:
        error = MeshRpcError(outcome, details, mesh, call.explain(outcome))
    else:
        error.mesh = mesh
    call.release_errors()
    return error  # type: ignore[no-any-return]
