"""Any value for a service config is read, or rejected with a ConfigError."""

import copy
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from meshlib._core.errors import ConfigError
from meshlib._core.policy import MethodTable
from meshlib._core.service_config import ServiceConfig, parse

GOOD: dict[str, Any] = {
    "loadBalancingConfig": [{"weighted_round_robin": {}}, {"least_request_experimental": {"choiceCount": 3}}],
    "loadBalancingPolicy": "round_robin",
    "methodConfig": [
        {
            "name": [{"service": "a.B", "method": "C"}],
            "timeout": "1s",
            "waitForReady": True,
            "hedgingPolicy": {"maxAttempts": 2, "hedgingDelay": "0.5s", "nonFatalStatusCodes": ["UNAVAILABLE"]},
        },
        {
            "name": [{"service": "a.B"}, {}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", 10],
                "perAttemptRecvTimeout": "1s",
            },
        },
    ],
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
    "healthCheckConfig": {"serviceName": ""},
}


def names(value: Any) -> set[str]:
    """The names of all fields in ``value``."""
    if isinstance(value, dict):
        return set(value).union(*map(names, value.values()))
    return set().union(*map(names, value)) if isinstance(value, list) else set()


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to every value in ``value``."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] + [place for key, child in inner for place in places(child, (*path, key))]


WORDS = st.sampled_from(
    [*sorted(names(GOOD)), "round_robin", "UNAVAILABLE", "1s", "0s", "-1s", "3", "1e999", "*", "/", ""]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | WORDS | st.just(10**400)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(), inner, max_size=4)
)


def read(config: Any) -> ServiceConfig | None:
    """Check that a config is rejected properly, or read into a usable result."""
    try:
        made = parse(config)
    except ConfigError as error:
        said = str(error)
    else:
        MethodTable(methods=made.methods).plan("/a.B/C")
        return made
    assert said.startswith("service_config")
    return None


def test_the_good_one() -> None:
    """The valid config that the others are derived from."""
    assert read(GOOD) is not None
    assert read(GOOD) == read(json.dumps(GOOD))


@given(ANYTHING)
def test_anything(config: Any) -> None:
    """JSON values, and keys and numbers that JSON does not have."""
    read(config)


@given(st.text() | st.text('{}[]",: \\\n019.-eE' + "nulltrue"))
def test_any_text(text: str) -> None:
    """Mostly not JSON."""
    read(text)


@given(st.data())
def test_a_good_one_with_something_else_in_it(data: st.DataObject) -> None:
    """One to three values of a valid config replaced, or fields added; the mapping and its text have the same
    result."""
    config: Any = copy.deepcopy(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        *way, last = data.draw(st.sampled_from(places(config)[1:] or [("methodConfig",)]))
        holder = config
        for key in way:
            holder = holder[key]
        if isinstance(holder, dict) and data.draw(st.booleans()):
            last = data.draw(WORDS)
        holder[last] = data.draw(ANYTHING)
    made = read(config)
    try:
        text = json.dumps(config, allow_nan=False)
    except ValueError:  # not valid JSON
        return
    assert read(text) == made
