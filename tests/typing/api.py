"""The public API as an application's type checker sees it: read by mypy --strict and pyright, never run."""

from collections.abc import Sequence
from random import Random
from typing import assert_type

import grpc
import grpc.aio

import meshlib
import meshlib.aio
from meshlib.balancing import Host, LeastRequest, Picker, PickInfo, register_balancer
from meshlib.discovery import Endpoint, Resolution, Target, register_resolver


class Newest:
    """A balancer as a user writes it."""

    def picker(self, hosts: tuple[Host, ...], *, rng: Random) -> Picker:
        return NewestPicker(hosts)


class NewestPicker(Picker):
    """Its picker."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self.hosts = hosts

    def pick(self, call: PickInfo, *, now: float) -> Host | None:
        return self.hosts[-1]


class Fixed:
    """A resolver as a user writes it, for threads."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def resolve(self, previous: Resolution | None) -> Resolution:
        return Resolution(endpoints=(Endpoint(address="127.0.0.1:50051"),), ttl=5.0)


class Watched:
    """The same for asyncio."""

    async def resolve(self, previous: Resolution | None) -> Resolution:
        return Resolution(endpoints=())


register_balancer("newest", Newest)
register_resolver("fixed", Fixed)


def sync() -> None:
    """A channel for threads."""
    channel = meshlib.channel(
        "svc-a",
        credentials=grpc.ssl_channel_credentials(),
        options=[("grpc.keepalive_time_ms", 10_000)],
        balancer=Newest(),
        resolver=Watched(),
        dns=meshlib.DnsPolicy(family="v4"),
        retry=meshlib.RetryPolicy(max_attempts=4, retryable_status_codes=frozenset({"UNAVAILABLE"})),
        retry_budget=meshlib.RetryBudget(budget_percent=30.0),
        timeout=2.0,
        methods={"/pkg.Svc/Write": meshlib.MethodPolicy(retry=None), "*": meshlib.MethodPolicy(wait_for_ready=True)},
    )
    assert_type(channel, meshlib.Channel)
    plain: grpc.Channel = channel
    plain.unary_unary("/pkg.Svc/Read")
    snapshot = channel.mesh.snapshot()
    assert_type(snapshot.target, str)
    assert_type(snapshot.hosts[0].in_flight, int)
    channel.mesh.resolve_now()
    with meshlib.insecure_channel("localhost:50051") as swapped:
        assert_type(swapped, meshlib.Channel)
    with meshlib.secure_channel("localhost:50051", grpc.ssl_channel_credentials(), None) as swapped:
        assert_type(swapped, meshlib.Channel)


async def asynchronous() -> None:
    """A channel for asyncio."""
    channel = meshlib.aio.channel("svc-a", balancer=LeastRequest(choice_count=3), retry=meshlib.HedgingPolicy())
    assert_type(channel, meshlib.aio.Channel)
    plain: grpc.aio.Channel = channel
    await plain.close()
    async with meshlib.aio.insecure_channel("localhost:50051") as swapped:
        assert_type(swapped, meshlib.aio.Channel)
        assert_type(swapped.mesh.snapshot().state, str)


def refused() -> None:
    """What a configuration error tells."""
    try:
        meshlib.channel("foo:///bar")
    except meshlib.ConfigError as error:
        assert_type(error.field, str)
        assert_type(error.allowed, str)
