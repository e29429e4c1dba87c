"""A call with its first attempt in flight, and the hosts of its cluster."""

from tests.core.scripted import METHOD, ScriptedCluster, brief, host, plan

from meshlib._core.call import Call
from meshlib._core.policy import HedgingPolicy, RetryPolicy

A, B, C = host("a"), host("b"), host("c")
RETRY = RetryPolicy(initial_backoff=0.1, max_backoff=1.0)  # and a random fraction of one half: 0.05 s, 0.1 s, 0.2 s


def begun(
    cluster: ScriptedCluster, policy: RetryPolicy | HedgingPolicy | None = RETRY, *, now: float = 0.0, **more: object
) -> Call:
    """A call whose first attempt has started at ``now``."""
    call = Call(cluster, plan(policy), METHOD, **more)  # type: ignore[arg-type]
    if call.streaming:
        call.on_reading(now=now)
    assert brief(call.begin(now=now)) == ["start 1 a first"]
    return call
