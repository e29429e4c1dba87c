"""The public API as an application's type checker sees it: read by mypy --strict and pyright, never run."""

from collections.abc import Callable, Sequence
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
    """The picker of :class:`Newest`."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self.hosts = hosts

    def pick(self, call: PickInfo, *, now: float) -> Host | None:
        return self.hosts[-1]


class Fixed:
    """A user's resolver for threads."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def resolve(self, previous: Resolution | None) -> Resolution:
        return Resolution(endpoints=(Endpoint(address="127.0.0.1:50051"),), ttl=5.0)


class Watched:
    """A user's resolver for asyncio."""

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
    """The fields of a configuration error."""
    try:
        meshlib.channel("foo:///bar")
    except meshlib.ConfigError as error:
        assert_type(error.field, str)
        assert_type(error.allowed, str)


def submodules() -> None:
    """``import meshlib`` alone makes the submodules available."""
    assert_type(meshlib.balancing.LeastRequest(), LeastRequest)
    meshlib.discovery.register_resolver("fixed", Fixed)
    assert_type(meshlib.telemetry.setup(service_name="shop"), Callable[[], None])
    with meshlib.testing.Server(name="a") as server:
        assert_type(server.port, int)


def explained(channel: meshlib.Channel) -> None:
    """The mesh's report of an error and of a call."""
    call = channel.unary_unary("/pkg.Svc/Read")
    try:
        _, outcome = call.with_call(b"")
        assert_type(meshlib.explain(outcome), meshlib.CallMesh | None)
        assert_type(meshlib.explain(call.future(b"")), meshlib.CallMesh | None)
    except grpc.RpcError as error:
        mesh = meshlib.explain(error)
        if mesh is not None:
            assert_type(mesh.attempts, tuple[meshlib.AttemptView, ...])
            assert_type(mesh.attempts[0].code, str | None)
            assert_type(mesh.local, bool)
            assert_type(mesh.why, str)
    assert_type(channel.mesh, meshlib.Mesh)
    snapshot: meshlib.ChannelSnapshot = channel.mesh.snapshot()
    hosts: tuple[meshlib.HostSnapshot, ...] = snapshot.hosts
    assert_type(hosts, tuple[meshlib.HostSnapshot, ...])


async def explained_in_asyncio(channel: meshlib.aio.Channel) -> None:
    """The same in asyncio."""
    call = channel.unary_unary("/pkg.Svc/Read")(b"")
    try:
        await call
        assert_type(meshlib.explain(call), meshlib.CallMesh | None)
    except grpc.aio.AioRpcError as error:
        assert_type(meshlib.explain(error), meshlib.CallMesh | None)
    assert_type(channel.mesh, meshlib.Mesh)


def wide() -> None:
    """Arguments are typed as widely as they are accepted; fields have the stored type."""
    policy = meshlib.RetryPolicy(
        retryable_status_codes=[grpc.StatusCode.UNAVAILABLE, "ABORTED"],
        retriable_headers=["x-retry", ("x-state", "draining")],
        reset_headers=[("retry-after", "seconds")],
    )
    assert_type(policy.retryable_status_codes, frozenset[str])
    meshlib.RetryPolicy(retryable_status_codes={"UNAVAILABLE"})
    meshlib.RetryPolicy(retryable_status_codes={grpc.StatusCode.UNAVAILABLE})
    meshlib.HedgingPolicy(non_fatal_status_codes=(grpc.StatusCode.UNAVAILABLE,))
    assert_type(meshlib.DnsPolicy(nameservers=["10.0.0.2"]).nameservers, tuple[str, ...])
    assert_type(Resolution(endpoints=[Endpoint(address="127.0.0.1:1")]).endpoints, tuple[Endpoint, ...])
    options = (("grpc.keepalive_time_ms", 10_000),)
    meshlib.channel("svc-a", options=options, interceptors=None, attempt_interceptors=iter(()))
    meshlib.aio.insecure_channel("svc-a:1", options=options, interceptors=())
