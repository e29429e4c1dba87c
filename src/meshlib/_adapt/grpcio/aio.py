"""The channels of grpc.aio, and their calls."""

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from functools import cache
from typing import Any, cast

import grpc
import grpc.aio

from meshlib._adapt.grpcio import public
from meshlib._adapt.grpcio.features import AIO_CHANNEL, AIO_INTERCEPTED, AIO_REQUESTS, AIO_STATE, KINDS, cygrpc, private

__all__ = ["aio_channel", "aio_intercepted", "aio_state", "sending"]

_log = logging.getLogger("meshlib")


def aio_channel(
    target: str,
    options: Sequence[tuple[str, Any]],
    credentials: grpc.ChannelCredentials | None,
    compression: grpc.Compression | None,
    interceptors: Sequence[Any] = (),
) -> grpc.aio.Channel:
    """Make grpc.aio's own channel; call it inside the loop that will run it."""
    if not AIO_CHANNEL:
        return public.aio_channel(target, options, credentials, compression, interceptors)
    core = None if credentials is None else credentials._credentials  # type: ignore[attr-defined]
    made: Any = private("aio._channel").Channel(target, options, core, compression, interceptors or None)
    return cast("grpc.aio.Channel", made)


def aio_state(channel: grpc.aio.Channel) -> Callable[[bool], int]:
    """Return a function that polls a grpc.aio channel, as :func:`~meshlib._adapt.grpcio.sync_state`."""
    if not AIO_STATE:
        return public.aio_state(channel)
    ask: Callable[[bool], int] = channel._channel.check_connectivity_state  # type: ignore[attr-defined]
    return ask


def sending(made: Any) -> Callable[..., Any]:
    """Return ``made``, a grpc.aio multicallable with a request stream and without interceptors, in a form that keeps
    the status of a server that ends the call early.
    """

    if not AIO_REQUESTS:
        return cast("Callable[..., Any]", made)

    def call(requests: AsyncIterator[bytes], **options: Any) -> Any:
        begun = made(None, **options)
        begun._async_request_poller = begun._loop.create_task(_send(begun, requests))
        return begun

    return call


async def _send(call: Any, requests: AsyncIterator[bytes]) -> None:
    """Send ``requests``. They must end with the call: grpc.aio does not always cancel the sending task."""
    try:
        await call._metadata_sent.wait()
        async for request in requests:
            if call.done():
                return
            await call._cython_call.send_serialized_message(request)
        if not call.done():
            await call._cython_call.send_receive_close()
    except cygrpc.InternalError:
        pass  # C-core has ended the call; its status follows
    except Exception:  # noqa: BLE001 - a request that is not bytes ends the call, as in grpc.aio
        _log.debug("request stream: failed to send a request; the call is cancelled", exc_info=True)
        call.cancel()
    except BaseException:  # the loop ends, or a signal handler has raised KeyboardInterrupt
        if not call.done():
            call.cancel()
        raise


class _Innermost:
    """Runs grpc.aio's interceptors around a meshlib call: a function that makes the call replaces the channel."""

    _channel: Callable[[Any, Any], Any]

    @property
    def mesh(self) -> Any:
        """``mesh`` of the last call that the interceptors let through; None before."""
        return getattr(getattr(self, "_last_returned_call_from_interceptors", None), "mesh", None)

    async def _run_interceptor(self, interceptors: Sequence[Any], *rest: Any) -> Any:
        if interceptors:
            return await super()._run_interceptor(interceptors, *rest)  # type: ignore[misc]
        details, request = rest[-2:]
        call = self._channel(details, request)
        self._last_returned_call_from_interceptors = call
        return call


@cache
def _intercepted(kind: str) -> Any:
    """Return grpc.aio's class of intercepted calls of ``kind``, which wraps a meshlib call."""
    base = getattr(private("aio._interceptor"), f"Intercepted{KINDS[kind]}Call")
    return type(f"_{KINDS[kind]}", (_Innermost, base), {})


def aio_intercepted(
    kind: str,
    interceptors: Sequence[Any],
    innermost: Callable[[Any, Any], Any],
    request: Any,
    timeout: float | None,
    metadata: grpc.aio.Metadata,
    credentials: grpc.CallCredentials | None,
    wait_for_ready: bool | None,
    method: str,
    serializer: Any,
    deserializer: Any,
    loop: Any,
) -> Any:
    """Make a grpc.aio call that runs ``interceptors`` and then ``innermost(client_call_details, request)``."""
    if not AIO_INTERCEPTED:
        return public.aio_intercepted(
            kind,
            interceptors,
            innermost,
            request,
            method,
            serializer,
            deserializer,
            timeout=timeout,
            metadata=metadata,
            credentials=credentials,
            wait_for_ready=wait_for_ready,
        )
    return _intercepted(kind)(
        interceptors,
        request,
        timeout,
        metadata,
        credentials,
        wait_for_ready,
        innermost,
        method.encode(),
        serializer,
        deserializer,
        loop,
    )
