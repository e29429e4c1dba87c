"""Retry and hedging scenarios of other implementations: each is tested here too, or has a reason why not."""

import ast
import functools
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SCENARIOS: list[dict[str, Any]] = tomllib.loads((HERE / "scenarios.toml").read_text("utf-8"))["scenario"]

NAMES = {
    "C-core": """
        retry retry_cancel_after_first_attempt_starts retry_cancel_during_delay retry_cancel_with_multiple_send_batches
        retry_cancellation retry_disabled retry_exceeds_buffer_size_in_delay retry_exceeds_buffer_size_in_initial_batch
        retry_exceeds_buffer_size_in_subsequent_batch retry_lb_drop retry_lb_fail retry_non_retriable_status
        retry_non_retriable_status_before_trailers retry_per_attempt_recv_timeout
        retry_per_attempt_recv_timeout_on_last_attempt retry_recv_initial_metadata retry_recv_message
        retry_recv_message_replay retry_recv_trailing_metadata_error retry_send_initial_metadata_refs
        retry_send_op_fails retry_send_recv_batch retry_server_pushback_delay retry_server_pushback_disabled
        retry_streaming retry_streaming_after_commit retry_streaming_succeeds_before_replay_finished retry_throttled
        retry_too_many_attempts retry_transparent_goaway retry_transparent_max_concurrent_streams
        retry_transparent_not_sent_on_wire retry_unref_before_finish retry_unref_before_recv
    """,
    "C-core unit": """
        Basic Replacement NoPolicyNeverRetries SuccessfulRequestsNeverRetry CommittedRequestsNeverRetry
        NonRetryableRequestsNeverRetry NeverExceedMaxAttempts NeverRetryNegativePushback NeverExceedMaxBackoff
    """,
    "Java": """
        hedging_everythingDrained_oneHedgeReceivesNonFatal_oneHedgeReceivesFatalStatus hedging_maxAttempts
        hedging_receiveHeaders hedging_pushback_negative hedging_pushback_positive hedging_deadlock hedging_cancelled
        hedging_perRpcBufferLimitExceeded hedging_channelBufferLimitExceeded hedging_transparentRetry
        hedging_transparentRetryNotAllowed hedging_throttledByOtherCall hedging_throttledByHedgingStreams
        expBackoff_maxBackoff_maxRetryAttempts pushback pushback_noRetry throttle
        throttledStream_FailWithRetriableStatusCode_WithoutPushback
        throttledStream_FailWithNonRetriableStatusCode_WithoutPushback
        throttledStream_FailWithRetriableStatusCode_WithRetriablePushback
        throttledStream_FailWithNonRetriableStatusCode_WithRetriablePushback
        throttledStream_FailWithRetriableStatusCode_WithNonRetriablePushback
        throttledStream_FailWithNonRetriableStatusCode_WithNonRetriablePushback
        throttleStream_Succeed transparentRetry_onlyOnceOnRefused transparentRetry_unlimitedTimesOnMiscarried
        normalRetry_thenNoTransparentRetry_butNormalRetry normalRetry_thenNoTransparentRetry_andNoMoreRetry
        droppedShouldNeverRetry perRpcBufferLimitExceeded perRpcBufferLimitExceededDuringBackoff updateHeaders
        retry_cancelWhileBackoff
    """,
    "Go": """
        TestRetryUnary TestRetryThrottling TestRetryStreaming TestMaxCallAttempts TestRetryStats
        TestRetryTransparentWhenCommitted TestAuthorityOverrideNotReusedAcrossAttempts
    """,
}
COUNTS = {"C-core": 34, "C-core unit": 9, "Java": 33, "Go": 7}


@functools.cache
def defined_in(path: str) -> frozenset[str]:
    """The functions and methods (``Class::method``) of a file, from its syntax tree."""
    found = set()
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.parse((ROOT / path).read_text("utf-8")).body:
        if isinstance(node, functions):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{item.name}" for item in node.body if isinstance(item, functions)}
    return frozenset(found)


def named(scenario: dict[str, Any]) -> list[str]:
    """The tests a scenario names."""
    test = scenario["test"]
    return [test] if isinstance(test, str) else test


def test_every_scenario_is_there_once() -> None:
    """No scenario is missing, invented or duplicated."""
    expected = Counter((source, name) for source, names in NAMES.items() for name in names.split())
    assert set(expected.values()) == {1}
    assert Counter(source for source, _ in expected) == COUNTS
    assert Counter((scenario["source"], scenario["name"]) for scenario in SCENARIOS) == expected


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: f"{scenario['source']} {scenario['name']}")
def test_a_scenario_has_a_test_or_a_reason(scenario: dict[str, Any]) -> None:
    """Exactly one of the two. The test exists; the reason is a sentence."""
    assert scenario.keys() - {"source", "name"} in ({"test"}, {"not_here"})
    if "not_here" in scenario:
        assert scenario["not_here"].endswith(".")
        return
    tests = named(scenario)
    assert tests
    assert len(set(tests)) == len(tests)
    for test in tests:
        path, _, name = test.partition("::")
        assert name in defined_in(path), f"{path} has no {name}"
