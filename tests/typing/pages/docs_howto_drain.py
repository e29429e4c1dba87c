"""The blocks of docs/howto/drain.md: written by tests/test_pages.py, read by type checkers, never run."""

# pyright: standard

# block 1
import meshlib

channel = meshlib.channel("svc-a", retry=meshlib.RetryPolicy(retryable_status_codes={"UNAVAILABLE"}))
channel.close()

# block 2
from grpc_health.v1 import health_pb2, health_pb2_grpc

with meshlib.channel("svc-a") as channel:
    health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    snapshot = channel.mesh.snapshot()
    print(snapshot.last_resolution, snapshot.next_resolution)
    print([(host.address, host.in_flight) for host in snapshot.hosts])

# block 3
channel = meshlib.channel("svc-a", timeout=1.0, retry=meshlib.RetryPolicy(per_attempt_timeout=0.2))
channel.close()

# block 4
channel = meshlib.channel(
    "svc-a",
    options=[
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.http2.ping_timeout_ms", 5_000),
    ],
)
channel.close()
