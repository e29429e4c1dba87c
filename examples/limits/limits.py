"""A circuit breaker: the service hangs, and the application fails calls at once instead of queueing them."""

import grpc

import meshlib
from meshlib.testing import Server, echo

LIMIT = 4


def main() -> None:
    breaker = meshlib.CircuitBreaker(max_requests=LIMIT)
    with Server() as server, meshlib.channel(f"static:///{server.address}", circuit_breaker=breaker) as channel:
        unary = channel.unary_unary(echo.UNARY)
        unary(b"hello", timeout=5)

        server.fault(hang=True)
        calls = [unary.future(b"hello", timeout=30) for _ in range(10)]
        refused = [call for call in calls if call.done()]  # rejected at once, without waiting for the deadline
        print(f"{len(calls) - len(refused)} in flight, {len(refused)} refused")
        print(refused[0].details())
        print(f"never sent: {all(call.mesh.local for call in refused)}")

        try:
            unary(b"hello", timeout=30)
        except grpc.RpcError as error:
            # A local rejection is not a server failure: ask the caller to retry later.
            print("busy, please try again" if error.mesh.local else "the service is broken")

        server.heal()
        print(f"the service is back: {sum(call.result() == b'hello' for call in calls if call not in refused)} answers")
        print(unary(b"and the next call is let through", timeout=5).decode())
        print(f"refused in all: {channel.mesh.snapshot().requests_refused}")


if __name__ == "__main__":
    main()
