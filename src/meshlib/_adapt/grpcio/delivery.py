"""grpc's futures and streams in a process that has no thread to give.

grpc starts the call in C-core first, then the thread that delivers what happens to the calls of the channel, then the
one that reads the requests. If a thread cannot be started it raises and forgets the call. Nobody can cancel that one
then; and without the first thread no later call of the channel ends, and ``close()`` waits for all of them for ever.
"""

from typing import Any, Final, NamedTuple

import grpc

from meshlib._adapt.grpcio.features import DELIVERY, cygrpc, private

__all__ = ["Unstarted", "deliver", "unstarted"]

_channel: Final = private("_channel")


class Unstarted(NamedTuple):
    """How far a call came that could not be started."""

    sent: bool
    """C-core has it; it may have left."""
    silent: bool
    """The thread is missing that would deliver its end: see :func:`deliver`."""


def unstarted(error: BaseException) -> Unstarted:
    """How far the call came for which grpc raised ``error``. If C-core has it, it is cancelled there."""
    if not DELIVERY:
        return Unstarted(sent=True, silent=False)
    silent = False
    call: Any = None
    traceback = error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        silent = silent or frame.f_code is _channel._run_channel_spin_thread.__code__
        started = frame.f_locals.get("call")
        if isinstance(started, cygrpc.IntegratedCall):
            call = started
        traceback = traceback.tb_next
    if call is None:
        return Unstarted(sent=False, silent=False)
    call.cancel(grpc.StatusCode.CANCELLED.value[0], "no thread could be started for the call")
    return Unstarted(sent=True, silent=silent)


def deliver(channel: Any) -> None:
    """Starts the thread that delivers what happens to the calls of ``channel``, if it was missing.

    Raises:
        RuntimeError: it cannot be started now either.
    """
    _channel._run_channel_spin_thread(channel._call_state)
