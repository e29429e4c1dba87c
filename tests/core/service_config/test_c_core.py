"""The cases of C-core's ``retry_service_config_test.cc``, one by one."""

from typing import Any

import pytest
from tests.core.service_config.configs import (
    ARRAY,
    CODE,
    NUMBER,
    OBJECT,
    SECONDS,
    WHOLE,
    method,
    refusal,
    retry,
    retry_policy,
    throttling,
)

from meshlib._core.attempts.policy import RetryThrottling
from meshlib._core.policy import RetryPolicy
from meshlib._core.service_config import parse


def test_valid_retry_throttling() -> None:
    """``ValidRetryThrottling``; and a whole ratio, of which C-core makes a thousandth."""
    for ratio in (1.0, 1, "1", "1.0"):
        made = parse({"retryThrottling": {"maxTokens": 2, "tokenRatio": ratio}}).retry_throttling
        assert made == RetryThrottling(max_tokens=2, token_ratio=1.0)


def test_valid_retry_policy() -> None:
    """``ValidRetryPolicy``."""
    assert retry_policy(retry()) == RetryPolicy(
        max_attempts=3,
        initial_backoff=1.0,
        max_backoff=120.0,
        backoff_multiplier=1.6,
        retryable_status_codes=frozenset({"ABORTED"}),
    )


@pytest.mark.parametrize("codes", [["ABORTED", "UNAVAILABLE"], [10, 14]], ids=["", "IgnoredWhenHedgingDisabled"])
def test_valid_retry_policy_with_per_attempt_recv_timeout(codes: Any) -> None:
    """``ValidRetryPolicyWithPerAttemptRecvTimeout``, without an experimental argument and so never ignored."""
    made = retry_policy(retry(perAttemptRecvTimeout="1s", retryableStatusCodes=codes))
    assert (made.per_attempt_timeout, made.retryable_status_codes) == (1.0, {"ABORTED", "UNAVAILABLE"})


LIMIT = "retryPolicy.perAttemptRecvTimeout"
INVALID: dict[str, tuple[dict[str, Any], str]] = {
    "RetryThrottlingMissingFields": ({"retryThrottling": {}}, "retryThrottling.maxTokens=None: is required"),
    "InvalidRetryThrottlingNegativeMaxTokens": (
        throttling(maxTokens=-2),
        "retryThrottling.maxTokens=-2: must be a whole number from 1 to 1000",
    ),
    "InvalidRetryThrottlingInvalidTokenRatio": (
        throttling(tokenRatio=-1),
        "retryThrottling.tokenRatio=-1: must be a number from 0.001 to 1000",
    ),
    "InvalidRetryPolicyWrongType": (method(retryPolicy=5), f"retryPolicy=5: {OBJECT}"),
    "InvalidRetryPolicyRequiredFieldsMissing": (
        method(retryPolicy={"retryableStatusCodes": ["ABORTED"]}),
        "retryPolicy.maxAttempts=None: is required",
    ),
    "InvalidRetryPolicyMaxAttemptsWrongType": (retry(maxAttempts="FOO"), f"retryPolicy.maxAttempts='FOO': {WHOLE}"),
    "InvalidRetryPolicyMaxAttemptsBadValue": (
        retry(maxAttempts=1),
        f"retryPolicy.maxAttempts=1: {WHOLE} from 2 to 100",
    ),
    "InvalidRetryPolicyInitialBackoffWrongType": (
        retry(initialBackoff="1sec"),
        f"retryPolicy.initialBackoff='1sec': {SECONDS}",
    ),
    "InvalidRetryPolicyInitialBackoffBadValue": (
        retry(initialBackoff="0s"),
        f"retryPolicy.initialBackoff='0s': {SECONDS}",
    ),
    "InvalidRetryPolicyMaxBackoffWrongType": (
        retry(maxBackoff="120sec"),
        f"retryPolicy.maxBackoff='120sec': {SECONDS}",
    ),
    "InvalidRetryPolicyMaxBackoffBadValue": (retry(maxBackoff="0s"), f"retryPolicy.maxBackoff='0s': {SECONDS}"),
    "InvalidRetryPolicyBackoffMultiplierWrongType": (
        retry(backoffMultiplier=[]),
        f"retryPolicy.backoffMultiplier=[]: {NUMBER}",
    ),
    "InvalidRetryPolicyBackoffMultiplierBadValue": (
        retry(backoffMultiplier=0),
        f"retryPolicy.backoffMultiplier=0: {NUMBER} from 1 to 1000",
    ),
    "InvalidRetryPolicyEmptyRetryableStatusCodes": (
        retry(retryableStatusCodes=[]),
        f"{CODE}=[]: must name at least one status code",
    ),
    "InvalidRetryPolicyRetryableStatusCodesWrongType": (retry(retryableStatusCodes=0), f"{CODE}=0: {ARRAY}"),
    "InvalidRetryPolicyRetryableStatusCodesElementsWrongType": (
        retry(retryableStatusCodes=[True, 2]),
        f"{CODE}[0]=True: must be the name of a status code, or its number, 1 to 16",
    ),
    "InvalidRetryPolicyUnparsableRetryableStatusCodes": (
        retry(retryableStatusCodes=["FOO", "BAR"]),
        (
            f"{CODE}[0]='FOO': unknown name; known: ABORTED, ALREADY_EXISTS, CANCELLED, DATA_LOSS, DEADLINE_EXCEEDED, "
            "FAILED_PRECONDITION, INTERNAL, INVALID_ARGUMENT, NOT_FOUND, OUT_OF_RANGE, PERMISSION_DENIED, "
            "RESOURCE_EXHAUSTED, UNAUTHENTICATED, UNAVAILABLE, UNIMPLEMENTED, UNKNOWN"
        ),
    ),
    # C-core accepts these two: there an attempt that timed out is retried under any codes.
    "ValidRetryPolicyWithPerAttemptRecvTimeout": (
        retry(perAttemptRecvTimeout="1s"),
        f"{LIMIT}='1s': is retried like UNAVAILABLE: add \"UNAVAILABLE\" to retryableStatusCodes",
    ),
    "ValidRetryPolicyWithPerAttemptRecvTimeoutAndUnsetRetryableStatusCodes": (
        retry(without="retryableStatusCodes", perAttemptRecvTimeout="1s"),
        f"{CODE}=None: is required",
    ),
    "InvalidRetryPolicyPerAttemptRecvTimeoutUnparsable": (
        retry(perAttemptRecvTimeout="1sec"),
        f"{LIMIT}='1sec': {SECONDS}",
    ),
    "InvalidRetryPolicyPerAttemptRecvTimeoutWrongType": (retry(perAttemptRecvTimeout=1), f"{LIMIT}=1: {SECONDS}"),
    "InvalidRetryPolicyPerAttemptRecvTimeoutBadValue": (retry(perAttemptRecvTimeout="0s"), f"{LIMIT}='0s': {SECONDS}"),
}


@pytest.mark.parametrize(("given", "said"), INVALID.values(), ids=INVALID)
def test_the_refusals_of_c_core(given: dict[str, Any], said: str) -> None:
    """Each of its cases by its name, with our error texts."""
    assert refusal(given).removeprefix("methodConfig[0].") == said
