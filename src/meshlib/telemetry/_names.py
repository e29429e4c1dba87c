"""Names of spans, attributes and instruments: those of OpenTelemetry's RPC conventions 1.44 and of gRPC's proposals
A66, A94 and A96 if they have one; those that begin with ``meshlib.`` are ours."""

from typing import Final

SCOPE: Final = "meshlib"
SCHEMA: Final = "https://opentelemetry.io/schemas/1.44.0"

# Attributes, OpenTelemetry RPC conventions 1.44.
SYSTEM: Final = "rpc.system.name"
METHOD: Final = "rpc.method"
STATUS: Final = "rpc.response.status_code"
ERROR_TYPE: Final = "error.type"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
PEER_ADDRESS: Final = "network.peer.address"
PEER_PORT: Final = "network.peer.port"

# Attributes, gRPC A66.
GRPC_METHOD: Final = "grpc.method"
GRPC_TARGET: Final = "grpc.target"
GRPC_STATUS: Final = "grpc.status"

# Our own.
HOST_STATE: Final = "meshlib.host.state"
OUTCOME: Final = "meshlib.resolution.outcome"

# Span events are named after the stages of the chain.
EVENT_ATTEMPT: Final = "meshlib.attempt.n"
EVENT_WHY: Final = "meshlib.attempt.why"
EVENT_DELAY: Final = "meshlib.retry.delay"
EVENT_REASON: Final = "meshlib.retry.refused"
EVENT_BROKEN: Final = "meshlib.breaker.refused"
EVENT_EJECTED: Final = "meshlib.outlier.ejected"
EVENT_PANIC: Final = "meshlib.panic"

# Recorded as calls end.
DURATION: Final = "rpc.client.call.duration"
DURATION_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
ATTEMPT_DURATION: Final = "grpc.client.attempt.duration"
ATTEMPT_BOUNDS: Final = (
    0.0, 0.00001, 0.00005, 0.0001, 0.0003, 0.0006, 0.0008, 0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.008, 0.01, 0.013,
    0.016, 0.02, 0.025, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0, 2.0,
    5.0, 10.0, 20.0, 50.0, 100.0,
)  # fmt: skip
"""gRPC A66: those of the conventions begin at 5 ms, which hides a local network."""
RETRIES: Final = "grpc.client.call.retries"
TRANSPARENT_RETRIES: Final = "grpc.client.call.transparent_retries"
HEDGES: Final = "grpc.client.call.hedges"
RETRIES_BOUNDS: Final = (1.0, 2.0, 3.0, 4.0, 5.0)
TRANSPARENT_RETRIES_BOUNDS: Final = (*RETRIES_BOUNDS, 10.0)
RETRY_DELAY: Final = "grpc.client.call.retry_delay"

# Read at collection.
CONNECTED: Final = "grpc.subchannel.connection_attempts_succeeded"
NOT_CONNECTED: Final = "grpc.subchannel.connection_attempts_failed"
DISCONNECTED: Final = "grpc.subchannel.disconnections"
CONNECTIONS: Final = "grpc.subchannel.open_connections"
HOSTS: Final = "meshlib.hosts"
IN_FLIGHT: Final = "meshlib.attempts.in_flight"
RETRY_REFUSALS: Final = "meshlib.retry.refusals"
BUDGET: Final = "meshlib.retry_budget.remaining"
BREAKER_REFUSALS: Final = "meshlib.circuit_breaker.refusals"
EJECTED: Final = "meshlib.hosts.ejected"
EJECTIONS: Final = "meshlib.outlier_detection.ejections"
RESOLUTIONS: Final = "meshlib.resolutions"
