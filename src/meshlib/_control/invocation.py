"""One call as the application asked for it."""

from typing import NamedTuple

import grpc

from meshlib._adapt.metadata import Metadata
from meshlib._control.methods import Method

__all__ = ["Invocation"]


class Invocation(NamedTuple):
    """The arguments of one call, without its request: a call keeps them, and must not keep that alive.

    Args:
        method: the method called.
        timeout: seconds; None: that of the policy.
        metadata: the application's, in a form that can be sent more than once.
        credentials: of the call.
        wait_for_ready: None: that of the policy.
        compression: of the requests; None: that of the channel.
    """

    method: Method
    timeout: float | None
    metadata: Metadata
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None
