"""Methods in service configs: their names, their policies, and the error texts for what is rejected."""

from typing import Any

import pytest
from tests.core.service_config.configs import (
    ARRAY,
    CODE,
    FLAG,
    METHOD,
    NAME,
    NUMBER,
    OBJECT,
    RETRY,
    SECONDS,
    TEXT,
    WHOLE,
    hedging,
    method,
    refusal,
    retry,
    retry_policy,
)

from meshlib._core.policy import UNSET, HedgingPolicy, MethodPolicy, MethodTable
from meshlib._core.service_config import parse

SHOWN = "{'method': 'TestMethod', 'service': 'TestServ'}"
SECONDS_OR_0 = SECONDS.replace("more than 0", "0 or more")


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
