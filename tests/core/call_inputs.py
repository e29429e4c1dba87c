"""Inputs of one call under random steps: answers of the cluster, outcomes and times."""

from hypothesis import strategies as st
from tests.core.scripted import (
    host,
)

from meshlib._core.policy import RetryThrottling
from meshlib._core.status import Outcome, local

HOSTS = {name: host(name) for name in "abc"}
ANSWERS = {"nobody yet": None, "nobody": local("UNAVAILABLE", "no endpoints"), **HOSTS}
SELDOM = st.sampled_from([False] * 9 + [True])
ODD = st.builds(
    Outcome,
    st.sampled_from(["OK", "UNAVAILABLE", "UNAVAILABLE", "DEADLINE_EXCEEDED", "INVALID_ARGUMENT", "CANCELLED"]),
    st.just("as drawn"),
    sent=st.booleans(),
    pushback=st.sampled_from([None, None, 0.0, 0.7, 100.0, -1.0]),
    metadata=st.sampled_from(
        [(), (), (("x-retry", "yes"),), (("x-reset", "4"),), (("x-retry", "no"), ("x-reset", "x"))]
    ),
)
THROTTLING = [None, None, RetryThrottling(max_tokens=5, token_ratio=0.5), RetryThrottling(max_tokens=1, token_ratio=1)]
STEPS = st.sampled_from([0.0, 0.001, 0.3, 0.5, 1.0])
