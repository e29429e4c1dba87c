"""The blocks of docs/howto/limits.md: written by tests/test_pages.py, read by type checkers, never run."""

# pyright: standard

# block 1
import grpc

import meshlib
from grpc_health.v1 import health_pb2, health_pb2_grpc

breaker = meshlib.CircuitBreaker(max_requests=0)  # nothing may go out: to show what a refusal looks like
with meshlib.channel("svc-a", circuit_breaker=breaker) as channel:
    try:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    except grpc.RpcError as error:
        print(error.code(), error.details())
        mesh = meshlib.explain(error)
        print("never sent:", mesh is not None and mesh.local)
    print(channel.mesh.snapshot().requests_refused)
