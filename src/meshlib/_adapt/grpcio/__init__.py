"""The only package that touches grpcio's private names. Each is checked before it is used (``features.py``); if it is
missing or different, a public way is taken (``public.py``), and a line of the log says so.

They are used because the public way costs what a mesh cannot pay, or is not there:

- ``grpc._channel.Channel`` and ``grpc.aio._channel.Channel`` are what the public factories return. Instrumentation
  packages replace the factories, and would then trace every attempt as if it were a call.
- ``check_connectivity_state`` asks a connection in a third of a microsecond; ``subscribe`` costs a thread per channel
  and makes closing take a tenth of a second.
- grpc's locks are entered in Python, where a signal handler may raise and leave them locked
  (:mod:`meshlib._adapt.grpcio.locks`); a fork waits for who has one in hand (:data:`glances`).
- ``_InactiveRpcError`` is what blocking calls raise, and applications catch it by that name.
- ``_credentials`` tells TLS from the credentials of a plaintext channel (:func:`transport`).
- ``_UnaryOutcome`` is what ``with_call`` gives on a channel with interceptors; the call is inside (:func:`inner`).
- Calls at the exit of the interpreter have no thread: ``_SingleThreadedUnaryStreamMultiCallable`` makes streams without
  one, and ``segregated_call`` sends requests without one (:func:`threadless`).
- A thread that grpc cannot start leaves a channel that never says how calls end: ``_run_channel_spin_thread`` starts it
  later (:func:`deliver`).
- ``debug_error_string()`` of a call that grpc itself ended blocks for ever; ``_state`` has the answer.
- A stream that C-core could not send anywhere a second time, after a GOAWAY that refused it, gets its status and never
  the end of its messages: ``next()`` blocks for ever, past the deadline. ``_call`` cancels what it waits for; the
  public ``cancel()`` does nothing once there is a status.
- A stream of requests whose call the server has ended meanwhile is cancelled by grpc.aio, or said to be an INTERNAL
  error, and what the server said is lost. ``_cython_call`` sends them without that (:func:`sending`).
- Of the Python in a blocking call six instructions in ten would be grpc's. ``segregated_call`` and the operations of
  ``cygrpc`` are what they come down to (:class:`UnaryUnary`).
"""

from meshlib._adapt.grpcio.aio import aio_channel, aio_intercepted, aio_state, sending
from meshlib._adapt.grpcio.blocking import UnaryUnary, shortened
from meshlib._adapt.grpcio.delivery import deliver, unstarted
from meshlib._adapt.grpcio.features import lost
from meshlib._adapt.grpcio.locks import glances
from meshlib._adapt.grpcio.marks import inner, transport
from meshlib._adapt.grpcio.sync import (
    Compressing,
    channel,
    debug_string,
    depth,
    inactive,
    let_go,
    sync_glance,
    sync_state,
)
from meshlib._adapt.grpcio.threadless import threadless

__all__ = [
    "Compressing",
    "UnaryUnary",
    "aio_channel",
    "aio_intercepted",
    "aio_state",
    "channel",
    "debug_string",
    "deliver",
    "depth",
    "glances",
    "inactive",
    "inner",
    "let_go",
    "lost",
    "sending",
    "shortened",
    "sync_glance",
    "sync_state",
    "threadless",
    "transport",
    "unstarted",
]
