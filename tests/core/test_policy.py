"""Every setting: accepted and rejected values, error texts, and the policy that applies to a method."""

import math
from dataclasses import FrozenInstanceError
from typing import Any

import grpc
import pytest
import tenacity

from meshlib._core.errors import ConfigError
from meshlib._core.policy import (
    UNSET,
    HedgingPolicy,
    MethodPolicy,
    MethodTable,
    RetryBudget,
    RetryPolicy,
    TelemetryPolicy,
    unmatched,
)

SECONDS = "must be a number of seconds, more than 0"
SECONDS_OR_0 = "must be a number of seconds, 0 or more"
RESET_HEADERS = 'must be pairs such as ("retry-after", "seconds"); known formats: seconds, unix_timestamp'


def test_the_defaults() -> None:
    """3 attempts, only UNAVAILABLE and CANCELLED, full jitter below 25 ms doubling to 250 ms, a budget of 20 % but at
    least 3."""
    retry = RetryPolicy()
    assert (retry.max_attempts, retry.retryable_status_codes) == (3, frozenset({"CANCELLED", "UNAVAILABLE"}))
    assert (retry.initial_backoff, retry.backoff_multiplier, retry.max_backoff) == (0.025, 2.0, 0.25)
    assert (retry.per_attempt_timeout, retry.unsent_only, retry.buffer_size) == (None, False, 65536)
    budget = RetryBudget()
    assert (budget.budget_percent, budget.min_retry_concurrency) == (20.0, 3)


@pytest.mark.parametrize("policy", [RetryPolicy(), HedgingPolicy(), RetryBudget(), MethodPolicy(), MethodTable()])
def test_policies_are_values(policy: Any) -> None:
    """Policies are frozen, and equal by content."""
    with pytest.raises((FrozenInstanceError, AttributeError, TypeError)):
        policy.max_attempts = 7
    assert policy == type(policy)()


@pytest.mark.parametrize(
    ("kind", "field", "value", "allowed"),
    [
        (RetryPolicy, "max_attempts", 1, "must be a whole number from 2 to 100"),
        (RetryPolicy, "max_attempts", 101, "must be a whole number from 2 to 100"),
        (RetryPolicy, "max_attempts", 3.0, "must be a whole number from 2 to 100"),
        (RetryPolicy, "max_attempts", True, "must be a whole number from 2 to 100"),
        (RetryPolicy, "initial_backoff", 0, SECONDS),
        (RetryPolicy, "initial_backoff", "25ms", SECONDS),
        (RetryPolicy, "max_backoff", -1, SECONDS),
        (RetryPolicy, "max_backoff", math.inf, SECONDS),
        (RetryPolicy, "backoff_multiplier", 0.5, "must be a number from 1 to 1000"),
        (RetryPolicy, "backoff_multiplier", math.nan, "must be a number from 1 to 1000"),
        (RetryPolicy, "backoff_multiplier", "2", "must be a number from 1 to 1000"),
        (RetryPolicy, "per_attempt_timeout", 0, SECONDS),
        (RetryPolicy, "per_attempt_timeout", math.nan, SECONDS),
        (RetryPolicy, "unsent_only", "yes", "must be True or False"),
        (RetryPolicy, "buffer_size", -1, "must be a whole number from 0 to 2147483647"),
        (RetryPolicy, "retryable_status_codes", "UNAVAILABLE", 'must be a set of status codes such as {"UNAVAILABLE"}'),
        (RetryPolicy, "retryable_status_codes", 14, 'must be a set of status codes such as {"UNAVAILABLE"}'),
        (RetryPolicy, "reset_headers", "retry-after", RESET_HEADERS),
        (RetryPolicy, "reset_headers", 3, RESET_HEADERS),
        (RetryPolicy, "wait", 3, "must be a tenacity wait object, or a function of its retry state"),
        (RetryPolicy, "stop", 3, "must be a tenacity stop object, or a function of its retry state"),
        (RetryPolicy, "when", 3, "must be a tenacity when object, or a function of its retry state"),
        (HedgingPolicy, "max_attempts", 1, "must be a whole number from 2 to 100"),
        (HedgingPolicy, "hedging_delay", -0.1, SECONDS_OR_0),
        (HedgingPolicy, "buffer_size", 0.5, "must be a whole number from 0 to 2147483647"),
        (RetryBudget, "budget_percent", 101, "must be a number from 0 to 100"),
        (RetryBudget, "budget_percent", "20", "must be a number from 0 to 100"),
        (RetryBudget, "budget_percent", True, "must be a number from 0 to 100"),
        (RetryBudget, "min_retry_concurrency", -1, "must be a whole number from 0 to 2147483647"),
        (MethodPolicy, "retry", 3, "must be a RetryPolicy, a HedgingPolicy, or None for no retries"),
        (MethodPolicy, "timeout", 0, SECONDS),
        (MethodPolicy, "wait_for_ready", "yes", "must be True or False"),
        (MethodTable, "retry", RetryPolicy, "must be a RetryPolicy, a HedgingPolicy, or None for no retries"),
        (MethodTable, "retry", UNSET, "must be a RetryPolicy, a HedgingPolicy, or None for no retries"),
        (MethodTable, "timeout", -1, SECONDS),
        (MethodTable, "methods", [], "must map method names to MethodPolicy objects"),
        (TelemetryPolicy, "attempt_spans", None, "must be True or False"),
        (TelemetryPolicy, "access_log", 1, "must be True or False"),
    ],
)
def test_what_is_refused(kind: Any, field: str, value: object, allowed: str) -> None:
    """The error has the field, the value and the allowed form."""
    with pytest.raises(ConfigError) as caught:
        kind(**{field: value})
    assert str(caught.value) == f"{field}={value!r}: {allowed}"
    assert (caught.value.field, caught.value.value, caught.value.allowed) == (field, value, allowed)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("UNAVAILABEL", "did you mean 'UNAVAILABLE'?"),
        ("OK", "OK is not a failure and cannot be retried"),
        (14, "must be a grpc.StatusCode or its name"),
    ],
)
def test_codes_that_are_none(code: object, words: str) -> None:
    """The error for an unknown name lists the known ones; OK and numbers are rejected."""
    for kind, field in ((RetryPolicy, "retryable_status_codes"), (HedgingPolicy, "non_fatal_status_codes")):
        with pytest.raises(ConfigError) as caught:
            kind(**{field: {code}})
        assert str(caught.value).startswith(f"{field}={code!r}: ")
        assert words in str(caught.value)


def test_a_number_too_long_to_be_written_out() -> None:
    """It is rejected like any other, though Python would not print it."""
    with pytest.raises(
        ConfigError, match=r"^max_attempts=<a number of 16610 bits>: must be a whole number from 2 to 100$"
    ):
        RetryPolicy(max_attempts=10**5000)


def test_codes_by_name_or_member() -> None:
    """``grpc.StatusCode`` members and names in any case are equal; any collection of them is accepted."""
    for given in ({"UNAVAILABLE", "ABORTED"}, ["unavailable", grpc.StatusCode.ABORTED], ("Aborted", "UNAVAILABLE")):
        made = RetryPolicy(retryable_status_codes=given)  # type: ignore[arg-type]
        assert made.retryable_status_codes == {"UNAVAILABLE", "ABORTED"}
    with pytest.raises(ConfigError, match="must name at least one code; retry=None disables retries"):
        RetryPolicy(retryable_status_codes=frozenset())


@pytest.mark.parametrize(
    ("strategy", "also"),
    [
        ({"wait": tenacity.wait_fixed(1)}, {"initial_backoff": 1.0}),
        ({"wait": tenacity.wait_fixed(1)}, {"max_backoff": 1.0}),
        ({"wait": tenacity.wait_fixed(1)}, {"backoff_multiplier": 1.5}),
        ({"stop": tenacity.stop_never}, {"max_attempts": 4}),
        ({"when": tenacity.retry_always}, {"retryable_status_codes": {"ABORTED"}}),
    ],
)
def test_one_spelling_or_the_other(strategy: dict[str, Any], also: dict[str, Any]) -> None:
    """A tenacity object replaces our fields and cannot be combined with them."""
    assert RetryPolicy(**strategy)
    (decided,) = strategy
    with pytest.raises(ConfigError, match=f"is replaced by {decided}=; set only one of them"):
        RetryPolicy(**strategy, **also)


# --- methods -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Method", "/pkg.Svc", "pkg.Svc/Method", "/pkg.Svc/Method/more", "", 3])
def test_what_is_no_method(name: Any) -> None:
    """Names are grpc's, with a star for the rest of a service or of the channel."""
    with pytest.raises(ConfigError, match=r'must be "/package.Service/Method", "/package.Service/\*" or "\*"'):
        MethodTable(methods={name: MethodPolicy()})
    with pytest.raises(ConfigError, match=r"methods\['\*'\]=3: must be a MethodPolicy"):
        MethodTable(methods={"*": 3})  # type: ignore[dict-item]


def test_the_most_specific_wins_field_by_field() -> None:
    """Method, then service, then star, then channel; an unset field falls through to the next."""
    hedging = HedgingPolicy()
    table = MethodTable(
        retry=RetryPolicy(max_attempts=5),
        timeout=9.0,
        methods={
            "/pkg.Svc/Get": MethodPolicy(retry=hedging),
            "/pkg.Svc/*": MethodPolicy(retry=None, timeout=2.0),
            "*": MethodPolicy(timeout=7.0, wait_for_ready=True),
        },
    )
    get = table.plan("/pkg.Svc/Get")
    assert (get.retry, get.hedging, get.timeout, get.wait_for_ready) == (None, hedging, 2.0, True)
    put = table.plan("/pkg.Svc/Put")
    assert (put.retry, put.hedging, put.timeout, put.wait_for_ready) == (None, None, 2.0, True)
    other = table.plan("/pkg.Other/Get")
    assert other.retry is not None
    assert (other.retry.max_attempts, other.hedging, other.timeout) == (5, None, 7.0)


def test_a_timeout_for_streams_is_asked_for_by_method() -> None:
    """The channel's timeout applies only to calls that return one message."""
    table = MethodTable(timeout=9.0, methods={"/pkg.Svc/Watch": MethodPolicy(timeout=60.0)})
    assert (table.plan("/pkg.Svc/Get").timeout, table.plan("/pkg.Svc/Get").stream_timeout) == (9.0, None)
    assert table.plan("/pkg.Svc/Watch").stream_timeout == 60.0


def test_a_method_can_turn_things_off() -> None:
    """``None`` means off, and differs from unset."""
    table = MethodTable(timeout=9.0, methods={"/pkg.Svc/Get": MethodPolicy(retry=None, timeout=None)})
    plan = table.plan("/pkg.Svc/Get")
    assert (plan.retry, plan.hedging, plan.timeout, plan.stream_timeout) == (None, None, None, None)
    assert repr(MethodPolicy().timeout) == "UNSET"


def test_requests_are_kept_whatever_the_policy() -> None:
    """Every policy, and the default, buffers requests: an attempt refused by a host is sent again in any case."""
    retry, hedging = RetryPolicy(buffer_size=1), HedgingPolicy(buffer_size=2)
    sizes = [MethodTable(retry=policy).plan("/pkg.Svc/Get").buffer_size for policy in (retry, hedging, None)]
    assert sizes == [1, 2, 65536]


def test_a_table_without_retries() -> None:
    """No method retries or hedges; timeouts stay, and so does the original table."""
    table = MethodTable(
        retry=RetryPolicy(),
        timeout=5.0,
        methods={"/a.B/C": MethodPolicy(retry=HedgingPolicy(), timeout=1.0), "/a.B/*": MethodPolicy()},
    )
    plain = table.without_retries()
    plans = [plain.plan(method) for method in ("/a.B/C", "/a.B/D", "/x.Y/Z")]
    assert [(plan.retry, plan.hedging, plan.timeout) for plan in plans] == [(None, None, t) for t in (1.0, 5.0, 5.0)]
    assert table.plan("/a.B/C").hedging == HedgingPolicy()


@pytest.mark.parametrize(
    ("policies", "found"),
    [
        (["/a.B/Get"], []),
        (["/a.B/*", "*"], []),
        (["/other.Service/Get"], []),
        (["/a.B/Gett"], [("/a.B/Gett", "/a.B/Get")]),
        (["/a.B/Frobnicate", "/a.B/Put"], [("/a.B/Frobnicate", "")]),
    ],
)
def test_a_policy_for_a_method_that_its_service_does_not_have(
    policies: list[str], found: list[tuple[str, str]]
) -> None:
    """It is found with the most similar method; other services and wildcards are not."""
    assert unmatched(policies, {"/a.B/Get", "/a.B/Put"}) == found
