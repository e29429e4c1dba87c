"""Service configs: the effect of each field, and the error texts for everything that is rejected."""

import json
import math
from typing import Any

import pytest

from meshlib._core.attempts.policy import RetryThrottling
from meshlib._core.balancing.least_request import LeastRequest
from meshlib._core.balancing.pick_first import PickFirst
from meshlib._core.balancing.random import Random
from meshlib._core.balancing.round_robin import RoundRobin
from meshlib._core.errors import ConfigError
from meshlib._core.policy import UNSET, HedgingPolicy, MethodPolicy, MethodTable, RetryPolicy
from meshlib._core.service_config import ServiceConfig, parse

NAME = {"service": "TestServ", "method": "TestMethod"}
METHOD = "/TestServ/TestMethod"
SHOWN = "{'method': 'TestMethod', 'service': 'TestServ'}"
RETRY = {
    "maxAttempts": 3,
    "initialBackoff": "1s",
    "maxBackoff": "120s",
    "backoffMultiplier": 1.6,
    "retryableStatusCodes": ["ABORTED"],
}
OBJECT, ARRAY, TEXT = "must be a JSON object", "must be a JSON array", "must be a string"
WHOLE, NUMBER, FLAG = "must be a whole number", "must be a number", "must be true or false"
SECONDS = 'must be a duration in seconds such as "1.5s", more than 0 and at most 315576000000'
SECONDS_OR_0 = SECONDS.replace("more than 0", "0 or more")


def method(**fields: Any) -> dict[str, Any]:
    """A service config with one entry, for one method."""
    return {"methodConfig": [{"name": [NAME], **fields}]}


def retry(without: str = "", **fields: Any) -> dict[str, Any]:
    """A service config with a retry policy for one method."""
    return method(retryPolicy={name: value for name, value in {**RETRY, **fields}.items() if name != without})


def hedging(**fields: Any) -> dict[str, Any]:
    """A service config with a hedging policy for one method."""
    return method(hedgingPolicy={"maxAttempts": 3, **fields})


def throttling(**fields: Any) -> dict[str, Any]:
    """A service config with tokens."""
    return {"retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1, **fields}}


def refusal(given: Any) -> str:
    """The error of a rejected config, in both of its forms, without the leading name."""
    with pytest.raises(ConfigError) as caught:
        parse(json.dumps(given))
    with pytest.raises(ConfigError) as again:
        parse(given)
    assert str(caught.value) == str(again.value)
    assert str(caught.value).startswith("service_config")
    return str(caught.value).removeprefix("service_config").removeprefix(".")


def retry_policy(given: Any) -> RetryPolicy:
    """The retry policy of the only method in a config, in both of its forms."""
    made = parse(given).methods[METHOD].retry
    assert parse(json.dumps(given)).methods[METHOD].retry == made
    assert isinstance(made, RetryPolicy)
    return made


def test_all_of_it() -> None:
    """Each part becomes meshlib's own policy."""
    assert parse("""{
        "loadBalancingConfig": [{"least_request_experimental": {"choiceCount": 3}}],
        "methodConfig": [
            {"name": [{"service": "shop.Orders", "method": "Pay"}], "timeout": "2.5s"},
            {"name": [{"service": "shop.Orders"}, {"service": "shop.Carts"}], "hedgingPolicy": {
                "maxAttempts": 4, "hedgingDelay": ".5s", "nonFatalStatusCodes": ["unavailable", 13]
            }},
            {"name": [{}], "waitForReady": true, "retryPolicy": {
                "maxAttempts": 5, "initialBackoff": "0.1s", "maxBackoff": "1s", "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "Aborted", 8]
            }}
        ],
        "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
        "healthCheckConfig": {"serviceName": "shop.Orders"}
    }""") == ServiceConfig(
        methods={
            "/shop.Orders/Pay": MethodPolicy(retry=None, timeout=2.5, wait_for_ready=False),
            **dict.fromkeys(
                ("/shop.Orders/*", "/shop.Carts/*"),
                MethodPolicy(
                    retry=HedgingPolicy(
                        max_attempts=4, hedging_delay=0.5, non_fatal_status_codes=frozenset({"UNAVAILABLE", "INTERNAL"})
                    ),
                    wait_for_ready=False,
                ),
            ),
            "*": MethodPolicy(
                retry=RetryPolicy(
                    max_attempts=5,
                    initial_backoff=0.1,
                    max_backoff=1.0,
                    backoff_multiplier=2,
                    retryable_status_codes=frozenset({"UNAVAILABLE", "ABORTED", "RESOURCE_EXHAUSTED"}),
                ),
                wait_for_ready=True,
            ),
        },
        retry_throttling=RetryThrottling(max_tokens=10, token_ratio=0.1),
        balancer=LeastRequest(choice_count=3),
        health_check_service="shop.Orders",
    )


@pytest.mark.parametrize("given", ["{}", {}, '{"methodConfig": null}', {"methodConfig": [], "healthCheckConfig": {}}])
def test_nothing_of_it(given: Any) -> None:
    """An absent or null part leaves the channel's setting."""
    made = parse(given)
    assert made == ServiceConfig()
    assert dict(made.methods) == {}
    assert (made.retry_throttling, made.balancer, made.health_check_service) == (None, None, None)


# --- C-core's retry_service_config_test.cc, case by case ------------------------------


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


CODE = "retryPolicy.retryableStatusCodes"
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


# --- fields of a method --------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (method(timeout="0s"), f"timeout='0s': {SECONDS}"),
        (method(timeout="-1s"), f"timeout='-1s': {SECONDS}"),
        (method(timeout=1.5), f"timeout=1.5: {SECONDS}"),
        (method(timeout="1.5"), f"timeout='1.5': {SECONDS}"),
        (method(timeout="s"), f"timeout='s': {SECONDS}"),
        (method(timeout=".s"), f"timeout='.s': {SECONDS}"),
        (method(timeout="1.s"), f"timeout='1.s': {SECONDS}"),
        (method(timeout="1e3s"), f"timeout='1e3s': {SECONDS}"),
        (method(timeout="1.0000000001s"), f"timeout='1.0000000001s': {SECONDS}"),
        (method(timeout="315576000001s"), f"timeout='315576000001s': {SECONDS}"),
        (method(timeout="٣s"), f"timeout='٣s': {SECONDS}"),
        (method(timeout="1s\n"), f"timeout='1s\\n': {SECONDS}"),
        (method(waitForReady=1), f"waitForReady=1: {FLAG}"),
        (method(waitForReady="true"), f"waitForReady='true': {FLAG}"),
        (hedging(maxAttempts=101), f"hedgingPolicy.maxAttempts=101: {WHOLE} from 2 to 100"),
        (hedging(hedgingDelay="-1s"), f"hedgingPolicy.hedgingDelay='-1s': {SECONDS_OR_0}"),
        (hedging(nonFatalStatusCodes={}), f"hedgingPolicy.nonFatalStatusCodes={{}}: {ARRAY}"),
        (method(hedgingPolicy={}), "hedgingPolicy.maxAttempts=None: is required"),
        (
            method(hedgingPolicy={"maxAttempts": 2}, retryPolicy=RETRY),
            "hedgingPolicy={'maxAttempts': 2}: conflicts with retryPolicy; a method is retried or hedged, not both",
        ),
        (retry(maxAttempts=101), f"retryPolicy.maxAttempts=101: {WHOLE} from 2 to 100"),
        (retry(maxAttempts=2.5), f"retryPolicy.maxAttempts=2.5: {WHOLE}"),
        (retry(maxAttempts=True), f"retryPolicy.maxAttempts=True: {WHOLE}"),
        (retry(maxAttempts=-(10**17)), f"retryPolicy.maxAttempts={-(10**17)}: {WHOLE} from 2 to 100"),
        (retry(backoffMultiplier="two"), f"retryPolicy.backoffMultiplier='two': {NUMBER}"),
        (retry(backoffMultiplier="0.5"), f"retryPolicy.backoffMultiplier='0.5': {NUMBER} from 1 to 1000"),
        (retry(backoffMultiplier=False), f"retryPolicy.backoffMultiplier=False: {NUMBER}"),
        (retry(retryableStatusCodes=["OK"]), f"{CODE}[0]='OK': OK is not a failure and cannot be retried"),
        (retry(retryableStatusCodes=[14, 0]), f"{CODE}[1]='OK': OK is not a failure and cannot be retried"),
        (retry(retryableStatusCodes=[17]), f"{CODE}[0]=17: must be the name of a status code, or its number, 1 to 16"),
        (
            retry(retryableStatusCodes=[None]),
            f"{CODE}[0]=None: must be the name of a status code, or its number, 1 to 16",
        ),
    ],
)
def test_what_a_method_may_not_have(given: dict[str, Any], said: str) -> None:
    """The error has the path, the value as written, and the allowed form."""
    assert refusal(given) == f"methodConfig[0].{said}"


def test_more_attempts_than_grpc_makes() -> None:
    """100 are 100, where native grpc makes 5 of anything more."""
    assert retry_policy(retry(maxAttempts=100)).max_attempts == 100
    assert parse(hedging(maxAttempts=100)).methods[METHOD].retry == HedgingPolicy(
        max_attempts=100, hedging_delay=0.0, non_fatal_status_codes=frozenset()
    )


def test_hedging_without_a_delay() -> None:
    """All copies start at once, and any failure is fatal: A6's defaults, not those of ``HedgingPolicy``."""
    expected = HedgingPolicy(max_attempts=3, hedging_delay=0.0, non_fatal_status_codes=frozenset())
    for fields in ({}, {"hedgingDelay": "0s", "nonFatalStatusCodes": []}, {"hedgingDelay": None}):
        assert parse(hedging(**fields)).methods[METHOD].retry == expected


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1.0), ("1.5s", 1.5), (".1s", 0.1), ("0.000000001s", 1e-9), ("315576000000s", 315576e6), ("007s", 7.0)],
)
def test_durations(text: str, seconds: float) -> None:
    """Durations are proto3's, and A6's own ``".1s"``."""
    assert parse(method(timeout=text)).methods[METHOD] == MethodPolicy(timeout=seconds)


def test_numbers_as_proto3_has_them() -> None:
    """Strings, and whole numbers with a decimal point, are accepted: generators of such files write them, C-core reads
    them."""
    for attempts, multiplier in ((4, 2), (4.0, 2.0), ("4", "2"), ("4", "2e0")):
        made = retry_policy(retry(maxAttempts=attempts, backoffMultiplier=multiplier))
        assert (made.max_attempts, made.backoff_multiplier) == (4, 2)


# --- names of methods ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ({"service": "pkg.Svc", "method": "Get"}, "/pkg.Svc/Get"),
        ({"service": "pkg.Svc", "method": ""}, "/pkg.Svc/*"),
        ({"service": "pkg.Svc", "method": None}, "/pkg.Svc/*"),
        ({"service": "pkg.Svc"}, "/pkg.Svc/*"),
        ({"service": "", "method": ""}, "*"),
        ({"service": None}, "*"),
        ({}, "*"),
    ],
)
def test_names(name: Any, key: str) -> None:
    """Names of a method, a service, or everything; ``MethodTable`` takes them unchanged."""
    methods = parse({"methodConfig": [{"name": [name], "timeout": "1s"}]}).methods
    assert methods == {key: MethodPolicy(timeout=1.0)}
    assert MethodTable(methods=methods).plan("/pkg.Svc/Get").timeout == 1.0


NO_SERVICE = 'must be a service with its package, without "/" or "*"; omit it to match all of them'
NO_METHOD = 'must be a method without its service, without "/" or "*"; omit it to match all of them'


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({}, ".name=None: is required"),
        ({"name": []}, ".name=[]: must name at least one method; [{}] matches all methods"),
        ({"name": NAME}, f".name={SHOWN}: {ARRAY}"),
        ({"name": ["/a.B/C"]}, f".name[0]='/a.B/C': {OBJECT}"),
        ({"name": [{"service": 3}]}, f".name[0].service=3: {TEXT}"),
        ({"name": [{"service": "/a.B"}]}, f".name[0].service='/a.B': {NO_SERVICE}"),
        ({"name": [{"service": "*"}]}, f".name[0].service='*': {NO_SERVICE}"),
        ({"name": [{"service": "a.B", "method": "*"}]}, f".name[0].method='*': {NO_METHOD}"),
        ({"name": [{"service": "a.B", "method": "/a.B/C"}]}, f".name[0].method='/a.B/C': {NO_METHOD}"),
        ({"name": [{"method": "C"}]}, ".name[0]={'method': 'C'}: a method needs a service"),
        ({"name": [NAME, NAME]}, f".name[1]={SHOWN}: is already named by service_config.methodConfig[0].name[0]"),
        (5, f"=5: {OBJECT}"),
    ],
)
def test_names_that_are_none(entry: Any, said: str) -> None:
    """Names that grpc would ignore or mistake for another name."""
    assert refusal({"methodConfig": [entry]}) == f"methodConfig[0]{said}"


def test_a_name_in_two_entries() -> None:
    """The error has the path of the first; spellings of the same name are equal."""
    given = {"methodConfig": [{"name": [NAME, {}]}, {"name": [{"service": "a.B"}, {"service": "", "method": None}]}]}
    assert refusal(given) == (
        "methodConfig[1].name[1]={'method': None, 'service': ''}: "
        "is already named by service_config.methodConfig[0].name[1]"
    )


def test_the_most_specific_entry_counts_alone() -> None:
    """A setting that it omits is off if another entry has it, as in grpc; otherwise the channel's applies."""
    methods = parse(
        {
            "methodConfig": [
                {"name": [{}], "retryPolicy": RETRY, "timeout": "9s"},
                {"name": [{"service": "a.B"}], "waitForReady": True},
                {"name": [{"service": "a.B", "method": "Pay"}], "timeout": "1s"},
                {"name": [{"service": "a.B", "method": "Get"}], "hedgingPolicy": {"maxAttempts": 2}, "timeout": "2s"},
            ]
        }
    ).methods
    assert (methods["*"].timeout, methods["*"].wait_for_ready) == (9.0, UNSET)
    assert methods["/a.B/*"] == MethodPolicy(retry=None, timeout=None, wait_for_ready=True)
    assert methods["/a.B/Pay"] == MethodPolicy(retry=None, timeout=1.0, wait_for_ready=False)
    plan = MethodTable(methods=methods).plan("/a.B/Get")
    assert (plan.retry, plan.timeout, plan.wait_for_ready) == (None, 2.0, False)
    assert plan.hedging is not None


def test_one_entry_leaves_the_rest_to_the_channel() -> None:
    """A setting that no entry turns on is not turned off."""
    assert parse(method(waitForReady=False)).methods == {METHOD: MethodPolicy(wait_for_ready=False)}
    assert parse(method()).methods == {METHOD: MethodPolicy()}


def test_what_was_read_stays() -> None:
    """The method table is read-only."""
    given = method(timeout="1s")
    made = parse(given)
    given["methodConfig"][0]["timeout"] = "2s"
    assert made.methods[METHOD].timeout == 1.0
    with pytest.raises(TypeError, match="does not support item assignment"):
        made.methods["*"] = MethodPolicy()  # type: ignore[index]


# --- balancers -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "balancer"),
    [
        ([{"round_robin": {}}], RoundRobin()),
        ([{"pick_first": {}}], PickFirst()),
        ([{"pick_first": {"shuffleAddressList": False}}], PickFirst()),
        ([{"random": {}}], Random()),
        ([{"least_request": {}}], LeastRequest()),
        ([{"least_request_experimental": {}}], LeastRequest(choice_count=2)),
        ([{"least_request_experimental": {"choiceCount": 10}}], LeastRequest(choice_count=10)),
        ([{"least_request_experimental": {"choiceCount": 11}}], LeastRequest(choice_count=10)),
        ([{"least_request": {"choiceCount": 4294967296}}], LeastRequest(choice_count=10)),
        ([{"weighted_round_robin": {"blackoutPeriod": "1s"}}, {"round_robin": {}}, {"pick_first": {}}], RoundRobin()),
        ([{"xds_cluster_manager_experimental": 5}, {"random": {}}, {"round_robin": {"weights": 1}}], Random()),
    ],
)
def test_the_first_balancer_that_is_known(entries: Any, balancer: object) -> None:
    """gRFC A24; the settings of the others are ignored."""
    assert parse({"loadBalancingConfig": entries}).balancer == balancer


KNOWN = "known: least_request, least_request_experimental, pick_first, random, round_robin"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], f"=[]: names no balancer of meshlib; {KNOWN}"),
        ([{"rls": {}}], f"=[{{'rls': {{}}}}]: names no balancer of meshlib; {KNOWN}"),
        ({"round_robin": {}}, f"={{'round_robin': {{}}}}: {ARRAY}"),
        (["round_robin"], f"[0]='round_robin': {OBJECT}"),
        ([{}], "[0]={}: must have exactly one field"),
        ([{"random": {}}, {"rls": {}, "grpclb": {}}], "[1]={'grpclb': {}, 'rls': {}}: must have exactly one field"),
        ([{"round_robin": None}], f"[0].round_robin=None: {OBJECT}"),
        ([{"round_robin": {"weights": 1}}], "[0].round_robin.weights=1: unknown field; known: none"),
        (
            [{"round_robin": {"choiceCount": 3}}],
            (
                "[0].round_robin.choiceCount=3: unknown field; known: none; "
                "it belongs in loadBalancingConfig[].least_request"
            ),
        ),
        ([{"least_request": {"choiceCount": 1}}], f"[0].least_request.choiceCount=1: {WHOLE} from 2 to 4294967295"),
        ([{"least_request": {"choiceCount": "x"}}], f"[0].least_request.choiceCount='x': {WHOLE}"),
        ([{"pick_first": {"shuffleAddressList": 1}}], f"[0].pick_first.shuffleAddressList=1: {FLAG}"),
        (
            [{"pick_first": {"shuffleAddressList": True}}],
            (
                "[0].pick_first.shuffleAddressList=True: is not supported by meshlib, whose pick_first keeps to the "
                "resolver's order"
            ),
        ),
    ],
)
def test_balancers_that_are_none(given: Any, said: str) -> None:
    """No known balancer, or a known one with unknown settings."""
    assert refusal({"loadBalancingConfig": given}) == f"loadBalancingConfig{said}"


def test_the_deprecated_name() -> None:
    """In any letter case, and only without the list."""
    assert parse({"loadBalancingPolicy": "ROUND_ROBIN"}).balancer == RoundRobin()
    assert parse({"loadBalancingPolicy": "pick_first"}).balancer == PickFirst()
    assert parse({"loadBalancingPolicy": "grpclb", "loadBalancingConfig": [{"random": {}}]}).balancer == Random()
    assert refusal({"loadBalancingPolicy": "round-robin"}) == (
        f"loadBalancingPolicy='round-robin': unknown name; {KNOWN}; did you mean 'round_robin'?"
    )
    assert refusal({"loadBalancingPolicy": 1}) == f"loadBalancingPolicy=1: {TEXT}"


# --- the rest of it ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (throttling(maxTokens=0), f".maxTokens=0: {WHOLE} from 1 to 1000"),
        (throttling(maxTokens=1001), f".maxTokens=1001: {WHOLE} from 1 to 1000"),
        (throttling(maxTokens=1.5), f".maxTokens=1.5: {WHOLE}"),
        (throttling(tokenRatio=0), f".tokenRatio=0: {NUMBER} from 0.001 to 1000"),
        (throttling(tokenRatio="x"), f".tokenRatio='x': {NUMBER}"),
        (throttling(tokenRatio=None), ".tokenRatio=None: is required"),
        (
            throttling(tokenRation=1),
            ".tokenRation=1: unknown field; known: maxTokens, tokenRatio; did you mean 'tokenRatio'?",
        ),
        ({"retryThrottling": []}, f"=[]: {OBJECT}"),
    ],
)
def test_throttling_that_is_none(given: Any, said: str) -> None:
    """A6's ranges, which C-core does not enforce."""
    assert refusal(given) == f"retryThrottling{said}"


def test_health_checks() -> None:
    """gRFC A17: the empty name means the whole server, no name means no check."""
    assert parse({"healthCheckConfig": {"serviceName": ""}}).health_check_service == ""
    assert parse({"healthCheckConfig": {"serviceName": None}}).health_check_service is None
    assert refusal({"healthCheckConfig": {"serviceName": 1}}) == f"healthCheckConfig.serviceName=1: {TEXT}"


TOP = "known: loadBalancingConfig, loadBalancingPolicy, methodConfig, retryThrottling, healthCheckConfig"
BELOW = "known: name, waitForReady, timeout, retryPolicy, hedgingPolicy"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"retryPolicy": 1}, f"retryPolicy=1: unknown field; {TOP}; it belongs in methodConfig[]"),
        ({"maxTokens": 1}, f"maxTokens=1: unknown field; {TOP}; it belongs in retryThrottling"),
        (
            {"maxAttempts": 1},
            (
                f"maxAttempts=1: unknown field; {TOP}; "
                "it belongs in methodConfig[].retryPolicy or methodConfig[].hedgingPolicy"
            ),
        ),
        ({"method_config": 1}, f"method_config=1: unknown field; {TOP}; did you mean 'methodConfig'?"),
        ({"MethodConfig": 1}, f"MethodConfig=1: unknown field; {TOP}; did you mean 'methodConfig'?"),
        ({"zzz": None}, f"zzz=None: unknown field; {TOP}"),
        (
            method(retryThrottling=1),
            (f"methodConfig[0].retryThrottling=1: unknown field; {BELOW}; it belongs in the service config itself"),
        ),
        (
            retry(maxAttemps=3),
            (
                "methodConfig[0].retryPolicy.maxAttemps=3: unknown field; known: maxAttempts, "
                "initialBackoff, maxBackoff, backoffMultiplier, retryableStatusCodes, perAttemptRecvTimeout; "
                "did you mean 'maxAttempts'?"
            ),
        ),
        (
            hedging(maxBackoff="1s"),
            (
                "methodConfig[0].hedgingPolicy.maxBackoff='1s': unknown field; known: maxAttempts, "
                "hedgingDelay, nonFatalStatusCodes; it belongs in methodConfig[].retryPolicy"
            ),
        ),
        (
            method(maxResponseMessageBytes=1),
            (
                "methodConfig[0].maxResponseMessageBytes=1: is not supported by meshlib, "
                "which has no limit per method; use the channel option grpc.max_receive_message_length"
            ),
        ),
        (
            method(maxRequestMessageBytes=1),
            (
                "methodConfig[0].maxRequestMessageBytes=1: is not supported by meshlib, "
                "which has no limit per method; use the channel option grpc.max_send_message_length"
            ),
        ),
        (
            {"connectionScaling": {}},
            ("connectionScaling={}: is not supported by meshlib, which keeps one connection to each host"),
        ),
    ],
)
def test_fields_that_are_none(given: Any, said: str) -> None:
    """grpc ignores such fields; the error lists the known ones, or names the right place or the likely field."""
    assert refusal(given) == said


def test_a_name_of_any_length() -> None:
    """The path in the error stays readable."""
    assert refusal({"x" * 100_000: 1}).startswith("x" * 80 + "=1: unknown field")
    assert refusal({"loadBalancingConfig": [{"round_robin": {"y" * 1000: 1}}]}).count("y") == 80


# --- texts ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "'': must be JSON: Expecting value at line 1, column 1"),
        ('{"a": 1,}', "'{\"a\": 1,}': must be JSON: "),
        ('{\n "a" 1}', "at line 2, column 6"),
        ("[1, 2", "at line 1, column 6"),
        ("{} {}", "must be JSON: Extra data at line 1, column 4"),
        ('{"retryThrottling": NaN}', "must be JSON: NaN is not a number in JSON"),
        ('{"retryThrottling": -Infinity}', "must be JSON: -Infinity is not a number in JSON"),
        ("9" * 5000, "must be JSON: Exceeds the limit"),
        ("[" * 200_000, "must be JSON: "),
        ("[]", f"[]: {OBJECT}"),
        ("null", f"None: {OBJECT}"),
        (b"{}", "b'{}': must be JSON text or a mapping"),
        (None, "None: must be JSON text or a mapping"),
        ([{"methodConfig": []}], "must be JSON text or a mapping"),
        ({3: 4}, "3: the name of a field must be a string"),
        ({"methodConfig": [{None: 4}]}, "methodConfig[0]=None: the name of a field must be a string"),
        (retry(maxAttempts=10**5000), "maxAttempts=<a number of 16610 bits>: must be a whole number from 2 to 100"),
        (retry(backoffMultiplier=10**400), "must be a number from 1 to 1000"),
        (retry(backoffMultiplier=math.nan), "retryPolicy.backoffMultiplier=nan: must be a number"),
        (retry(maxAttempts=math.inf), "retryPolicy.maxAttempts=inf: must be a whole number"),
    ],
    ids=lambda given: None if isinstance(given, str) and len(given) < 100 else "long",
)
def test_what_is_no_config_at_all(given: Any, said: str) -> None:
    """The error has the position in the text; no other error escapes for values that are too large for Python."""
    with pytest.raises(ConfigError) as caught:
        parse(given)
    assert str(caught.value).startswith("service_config")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('{"methodConfig": [], "methodConfig": []}', ".methodConfig=[]"),
        ('{"x": 1, "y": 2, "x": 3}', ".x=3"),
        ('{"methodConfig": [{"name": [{"service": "a", "service": "b"}]}]}', ".methodConfig[0].name[0].service='b'"),
        ('{"loadBalancingConfig": [{"random": {}, "random": {}}]}', ".loadBalancingConfig[0].random={}"),
    ],
)
def test_a_name_given_twice(text: str, path: str) -> None:
    """JSON parsers would silently take the last."""
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert str(caught.value) == f"service_config{path}: is given twice in one object"


def test_under_another_name() -> None:
    """Paths begin with the name of the caller's argument."""
    with pytest.raises(ConfigError, match=r"^options\['grpc.service_config'\].timeout=1: unknown field"):
        parse({"timeout": 1}, field="options['grpc.service_config']")
