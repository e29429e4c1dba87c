"""The blocks of docs/howto/telemetry.md: written by tests/test_pages.py, read by type checkers, never run."""

# pyright: standard

# block 1
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import meshlib
from grpc_health.v1 import health_pb2, health_pb2_grpc

reader = InMemoryMetricReader()
provider = MeterProvider(metric_readers=[reader])
with meshlib.channel("svc-a", meter_provider=provider) as channel:
    health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    data = reader.get_metrics_data()
    assert data is not None
    for metric in data.resource_metrics[0].scope_metrics[0].metrics:
        print(metric.name, metric.unit)
provider.shutdown()

# block 2
channel = meshlib.channel("svc-a", telemetry=meshlib.TelemetryPolicy(attempt_spans=True, access_log=True))
channel.close()

# block 3
import dataclasses
import json

with meshlib.channel("svc-a") as channel:
    health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    print(json.dumps(dataclasses.asdict(channel.mesh.snapshot()), indent=2))
