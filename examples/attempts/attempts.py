"""Retries from a gRPC service config: throttled when everything fails, and one failed call explained."""

import grpc

import meshlib
from meshlib.testing import echo, servers

CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": echo.SERVICE}],
            "timeout": "5s",
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 6, "tokenRatio": 1},
}
"""Six tokens: the third failure leaves half of them, and then nothing is retried. A success returns one."""


def explain(error: grpc.RpcError) -> None:
    """Print the attempts of a call, and why the last failure was final."""
    print(error.code().name)
    for attempt in error.mesh.attempts:
        print(f"  {attempt.why} on {attempt.host}: {attempt.code} after {attempt.seconds:.3f} s")
    print(f"given up: {error.mesh.why}")


def main() -> None:
    try:
        meshlib.channel("svc-a", service_config={"retryThrottling": {"maxTokens": 6, "tokenratio": 1}})
    except meshlib.ConfigError as error:
        print(error)

    with servers(2) as instances:
        target = "static:///" + ",".join(server.address for server in instances)
        with meshlib.channel(target, service_config=CONFIG, retry_budget=None) as channel:
            unary = channel.unary_unary(echo.UNARY)
            while any(server.calls.total() == 0 for server in instances):
                unary(b"hello")  # until both are connected

            for server in instances:
                server.fault(code="UNAVAILABLE", details="restarting")
            try:
                unary(b"hello")
            except grpc.RpcError as error:
                explain(error)
            try:
                unary(b"hello")
            except grpc.RpcError as error:
                print(f"the next call has {len(error.mesh.attempts)} attempt")

            for server in instances:
                server.heal()
            for _ in range(4):
                unary(b"hello")
            for server in instances:
                server.fault(code="UNAVAILABLE", details="restarting", times=1)
            _, call = unary.with_call(b"hello")
            print(f"four good calls later there are retries again: {[attempt.why for attempt in call.mesh.attempts]}")


if __name__ == "__main__":
    main()
