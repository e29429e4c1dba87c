"""The channels under test: grpc's own, the reference, and their claimed replacements."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

import meshlib
import meshlib.aio


@dataclass(frozen=True, slots=True)
class Subject:
    """The four factories by which an application gets a channel, with grpc's own signatures."""

    name: str
    insecure_channel: Callable[..., grpc.Channel] = field(repr=False)
    secure_channel: Callable[..., grpc.Channel] = field(repr=False)
    aio_insecure_channel: Callable[..., grpc.aio.Channel] = field(repr=False)
    aio_secure_channel: Callable[..., grpc.aio.Channel] = field(repr=False)

    def __str__(self) -> str:
        return self.name


# C-core shares connections, and their failures, among all channels of a process with equal arguments. A test's port
# may have been another's, whose connection still exists: grpc never frees one on which it raised for the metadata of a
# call. A new channel would then be refused during its backoff, though a server listens by now. So no channel here
# shares any.
_OF_ITS_OWN = ("grpc.use_local_subchannel_pool", 1)


def _insecure(make: Callable[..., Any]) -> Callable[..., Any]:
    def made(target: str, options: Any = None, *rest: Any, **more: Any) -> Any:
        return make(target, (*(options or ()), _OF_ITS_OWN), *rest, **more)

    return made


def _secure(make: Callable[..., Any]) -> Callable[..., Any]:
    def made(target: str, credentials: grpc.ChannelCredentials, options: Any = None, *rest: Any, **more: Any) -> Any:
        return make(target, credentials, (*(options or ()), _OF_ITS_OWN), *rest, **more)

    return made


def _subject(name: str, sync: Any, aio: Any) -> Subject:
    return Subject(
        name,
        _insecure(sync.insecure_channel),
        _secure(sync.secure_channel),
        _insecure(aio.insecure_channel),
        _secure(aio.secure_channel),
    )


GRPC = _subject("grpc", grpc, grpc.aio)
MESHLIB = _subject("meshlib", meshlib, meshlib.aio)
SUBJECTS = (GRPC, MESHLIB)
