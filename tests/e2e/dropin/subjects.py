"""Whose channels are under test: grpc's own, which everything is compared with, and what claims to replace them."""

from collections.abc import Callable
from dataclasses import dataclass, field

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


GRPC = Subject("grpc", grpc.insecure_channel, grpc.secure_channel, grpc.aio.insecure_channel, grpc.aio.secure_channel)

MESHLIB = Subject(
    "meshlib",
    meshlib.insecure_channel,
    meshlib.secure_channel,
    meshlib.aio.insecure_channel,
    meshlib.aio.secure_channel,
)

SUBJECTS = (GRPC, MESHLIB)
