"""Shared fixtures of this folder: a server, and a channel to it of each subject."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import grpc
import grpc.aio
import pytest
from tests.e2e.dropin.service import scripted_server
from tests.e2e.dropin.subjects import SUBJECTS, Subject

from meshlib.testing import Server


@pytest.fixture(scope="session", autouse=True)
def _grpc_stays_up() -> Iterator[None]:
    """One channel of each runtime for all, so that grpcio does not start and stop its pollers in hundreds of tests.

    It would not stop them everywhere: `grpc.aio` never frees a call whose metadata it could not send.
    """

    async def connect() -> grpc.aio.Channel:
        return grpc.aio.insecure_channel("127.0.0.1:1")

    with grpc.insecure_channel("127.0.0.1:1"), asyncio.Runner() as runner:
        channel = runner.run(connect())
        yield
        runner.run(channel.close())


@pytest.fixture(params=SUBJECTS, ids=str)
def subject(request: pytest.FixtureRequest) -> Subject:
    """Both subjects: each test with this fixture claims the same of grpc and of its replacement."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def server() -> Iterator[Server]:
    """A server of the test's own."""
    with scripted_server() as server:
        yield server


@pytest.fixture
def channel(subject: Subject, server: Server) -> Iterator[grpc.Channel]:
    """A channel to it."""
    with subject.insecure_channel(server.address) as channel:
        yield channel


@pytest.fixture
async def aio_channel(subject: Subject, server: Server) -> AsyncIterator[grpc.aio.Channel]:
    """The same for asyncio."""
    async with subject.aio_insecure_channel(server.address) as channel:
        yield channel
