"""The blocks of docs/howto/health.md: written by tests/test_pages.py, read by type checkers, never run."""

# pyright: standard

# block 1
import meshlib

channel = meshlib.channel("svc-a")  # on
channel.close()
channel = meshlib.channel("svc-a", outlier_detection=None)  # off
channel.close()
channel = meshlib.channel(
    "svc-a",
    outlier_detection=meshlib.OutlierDetection(
        consecutive_gateway_failure=10,
        base_ejection_time=5.0,
        max_ejection_percent=30,
    ),
)
channel.close()

# block 2
from meshlib.balancing import Priorities, RoundRobin

never = Priorities(balancer=RoundRobin(), overprovisioning_factor=None, healthy_panic_threshold=0)
channel = meshlib.channel("svc-a", balancer=never)
channel.close()

# block 3
from grpc_health.v1 import health_pb2, health_pb2_grpc

with meshlib.channel("svc-a") as channel:
    _, call = health_pb2_grpc.HealthStub(channel).Check.with_call(health_pb2.HealthCheckRequest(), timeout=5)
    snapshot = channel.mesh.snapshot()
    print(snapshot.ejections, snapshot.ejections_spared, snapshot.panic)
    for host in snapshot.hosts:
        print(host.address, host.state, host.ejected_until, host.ejected_for)
    mesh = meshlib.explain(call)
    for attempt in mesh.attempts if mesh else ():
        print(attempt.host, attempt.ejected, attempt.panic)
