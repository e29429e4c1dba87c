"""The blocks of docs/howto/attempts.md: written by tests/test_pages.py, read by type checkers, never run."""

# pyright: standard

# block 1
import meshlib

channel = meshlib.channel(
    "svc-a",
    methods={
        "/shop.Orders/Pay": meshlib.MethodPolicy(retry=None),  # never retried
        "/shop.Orders/Reserve": meshlib.MethodPolicy(retry=meshlib.RetryPolicy(unsent_only=True)),
    },
)
channel.close()

# block 2
policy = meshlib.RetryPolicy(retryable_status_codes={"UNAVAILABLE"})

# block 3
channel = meshlib.channel(
    "svc-a",
    timeout=2.0,
    retry=meshlib.RetryPolicy(max_attempts=2),
    methods={
        "/shop.Catalogue/*": meshlib.MethodPolicy(retry=meshlib.RetryPolicy(max_attempts=4)),
        "/shop.Catalogue/Export": meshlib.MethodPolicy(timeout=60.0),
        "*": meshlib.MethodPolicy(wait_for_ready=True),
    },
)
channel.close()

# block 4
channel = meshlib.channel(
    "svc-a",
    timeout=2.0,
    retry=meshlib.RetryPolicy(per_attempt_timeout=0.5),
    methods={"/shop.Prices/Watch": meshlib.MethodPolicy(retry=meshlib.RetryPolicy(per_attempt_idle_timeout=30.0))},
)
channel.close()

# block 5
channel = meshlib.channel("svc-a", retry_budget=meshlib.RetryThrottling(max_tokens=10, token_ratio=0.1))
channel.close()

# block 6
channel = meshlib.channel(
    "svc-a",
    retry=meshlib.RetryPolicy(
        retryable_status_codes={"UNAVAILABLE", "RESOURCE_EXHAUSTED"},
        retriable_headers=["x-retry", ("x-state", "draining")],
        reset_headers=[("retry-after", "seconds"), ("x-ratelimit-reset", "unix_timestamp")],
        max_reset_interval=60.0,
    ),
)
channel.close()

# block 7
import grpc
from tenacity import retry_if_exception, stop_after_delay, wait_random_exponential

policy = meshlib.RetryPolicy(
    wait=wait_random_exponential(multiplier=0.05, max=1.0),
    stop=stop_after_delay(3.0),
    when=retry_if_exception(
        lambda error: (
            isinstance(error, grpc.RpcError) and error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED)
        )
    ),
)
channel = meshlib.channel("svc-a", retry=policy)
channel.close()
