"""Service configs for tests, and the error texts of rejected ones."""

import json
from typing import Any

import pytest

from meshlib._core.errors import ConfigError
from meshlib._core.policy import RetryPolicy
from meshlib._core.service_config import parse

NAME = {"service": "TestServ", "method": "TestMethod"}
METHOD = "/TestServ/TestMethod"
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


CODE = "retryPolicy.retryableStatusCodes"
