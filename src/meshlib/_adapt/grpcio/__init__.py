"""The only package that uses grpcio's private names. Each is checked before use (``features.py``). If it is missing or
different, a public alternative is used (``public.py``) and logged.

They are used because the public alternative is too slow for a mesh, or missing:

- ``grpc._channel.Channel`` and ``grpc.aio._channel.Channel`` are the classes of the public factories. Instrumentation
  packages replace the factories, and would then trace every attempt as if it were a call.
- ``check_connectivity_state`` polls a connection in a third of a microsecond; ``subscribe`` costs a thread per channel
  and makes closing take a tenth of a second.
- grpc's locks are entered in Python, where a signal handler may raise and leave them locked
  (:mod:`meshlib._adapt.grpcio.locks`). A fork waits for threads that hold one (:data:`glances`).
- ``_InactiveRpcError`` is raised by blocking calls, and applications catch it by that name.
- ``_credentials`` distinguishes TLS from the credentials of a plaintext channel (:func:`transport`).
- ``_UnaryOutcome`` is the result of ``with_call`` on a channel with interceptors; the call is inside (:func:`inner`).
- Calls at the exit of the interpreter have no thread: ``_SingleThreadedUnaryStreamMultiCallable`` makes streams without
  one, and ``segregated_call`` sends requests without one (:func:`threadless`).
- If grpc cannot start a thread, its channel never reports how calls end: ``_run_channel_spin_thread`` starts it later
  (:func:`deliver`).
- ``debug_error_string()`` of a call that grpc itself ended blocks for ever; ``_state`` has the answer.
- A stream that C-core could not resend after a GOAWAY that refused it gets its status but never the end of its
  messages: ``next()`` blocks for ever, past the deadline. ``_call`` cancels the pending operations; the public
  ``cancel()`` does nothing once there is a status.
- If a server ends a call during its requests, grpc.aio cancels the call or reports an INTERNAL error, and the server's
  status is lost. ``_cython_call`` sends requests without that (:func:`sending`).
- Of the Python in a blocking call six instructions in ten would be grpc's. ``segregated_call`` and the operations of
  ``cygrpc`` do the same work (:class:`BlockingUnaryUnary`).
"""

from meshlib._adapt.grpcio.aio import aio_channel, aio_intercepted, aio_state, sending
from meshlib._adapt.grpcio.blocking import BlockingUnaryUnary, shortened
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
    "BlockingUnaryUnary",
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
