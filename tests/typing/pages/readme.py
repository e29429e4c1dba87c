"""The blocks of README.md: written by tests/test_pages.py, read by type checkers, never run."""

# pyright: standard

# block 1
import meshlib
from grpc_health.v1 import health_pb2, health_pb2_grpc

channel = meshlib.channel("svc-a", timeout=2.0)
stub = health_pb2_grpc.HealthStub(channel)
print(stub.Check(health_pb2.HealthCheckRequest()).status)
channel.close()

# block 2
channel = meshlib.channel(
    "svc-a",
    balancer="least_request",
    retry=meshlib.RetryPolicy(max_attempts=4, per_attempt_timeout=0.5),
    circuit_breaker=meshlib.CircuitBreaker(max_requests=200),
    methods={
        "/grpc.health.v1.Health/*": meshlib.MethodPolicy(timeout=1.0),
        "/shop.Orders/Pay": meshlib.MethodPolicy(retry=None),
    },
)
with channel:
    response, call = health_pb2_grpc.HealthStub(channel).Check.with_call(health_pb2.HealthCheckRequest())
    print(meshlib.explain(call))
    for host in channel.mesh.snapshot().hosts:
        print(host.address, host.state, host.successes)

# block 3
import asyncio

import meshlib.aio


async def main() -> None:
    async with meshlib.aio.channel("svc-a", timeout=2.0) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        print(await stub.Check(health_pb2.HealthCheckRequest()))


asyncio.run(main())

# block 4
import grpc

with meshlib.channel("static:///127.0.0.1:1,127.0.0.1:2") as nobody:  # nothing listens there
    try:
        health_pb2_grpc.HealthStub(nobody).Check(health_pb2.HealthCheckRequest(), timeout=2)
    except grpc.RpcError as error:
        print(error)
        mesh = meshlib.explain(error)  # error.mesh, for type checkers
        assert mesh is not None
        for attempt in mesh.attempts:
            print(f"{attempt.start:.3f} s {attempt.why:<6} {attempt.host} {attempt.code} sent={attempt.sent}")
        print("given up because:", mesh.why)
