"""grpc's futures and streams in a process that cannot start threads.

grpc starts the call in C-core first, then the thread that delivers events to the calls of the channel, then the one
that reads the requests. If a thread cannot be started, grpc raises and drops the call, which then cannot be cancelled.
Without the first thread no later call of the channel ends, and ``close()`` waits for them forever.
"""

from typing import Any, Final, NamedTuple

import grpc

from meshlib._adapt.grpcio.features import DELIVERY, cygrpc, private

__all__ = ["Unstarted", "deliver", "unstarted"]

_channel: Final = private("_channel")


class Unstarted(NamedTuple):
    """Progress of a call that could not be started."""

    sent: bool
    """C-core has it and may have sent it."""
    silent: bool
    """The thread that delivers its end is missing: see :func:`deliver`."""


def unstarted(error: BaseException) -> Unstarted:
    """Return the progress of the call for which grpc raised ``error``; cancel it if C-core has it."""
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
    """Start the thread that delivers events to the calls of ``channel``, if it was missing.

    Raises:
        RuntimeError: it still cannot be started.
    """
    _channel._run_channel_spin_thread(channel._call_state)
