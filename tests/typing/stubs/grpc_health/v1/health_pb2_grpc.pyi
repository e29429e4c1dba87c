from typing import overload

import grpc
import grpc.aio
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

class HealthStub:
    @overload
    def __new__(cls, channel: grpc.Channel) -> HealthStub: ...
    @overload
    def __new__(cls, channel: grpc.aio.Channel) -> HealthAsyncStub: ...  # type: ignore[misc]
    Check: grpc.UnaryUnaryMultiCallable[HealthCheckRequest, HealthCheckResponse]
    Watch: grpc.UnaryStreamMultiCallable[HealthCheckRequest, HealthCheckResponse]

class HealthAsyncStub:
    Check: grpc.aio.UnaryUnaryMultiCallable[HealthCheckRequest, HealthCheckResponse]
    Watch: grpc.aio.UnaryStreamMultiCallable[HealthCheckRequest, HealthCheckResponse]
