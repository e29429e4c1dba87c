"""Checks of configuration values: each raises an error that names the field, the value and what is allowed."""

import math
from collections.abc import Iterable
from typing import Protocol

from meshlib._core.errors import ConfigError, unknown_name
from meshlib._core.status import CODES

__all__ = ["StatusCode", "duration", "flag", "number", "status_codes", "whole"]


class StatusCode(Protocol):
    """A member of ``grpc.StatusCode``."""

    @property
    def name(self) -> str:
        """Name of the status code."""
        ...


def duration(name: str, value: object, *, zero: bool = False) -> None:
    """Require a number of seconds."""
    allowed = f"must be a number of seconds, {'0 or more' if zero else 'more than 0'}"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(name, value, allowed)
    if value < 0 or (value == 0 and not zero):
        raise ConfigError(name, value, allowed)


def whole(name: str, value: object, low: int, high: int) -> None:
    """Require a whole number from ``low`` to ``high``."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(name, value, f"must be a whole number from {low} to {high}")


def number(name: str, value: object, low: float, high: float) -> None:
    """Require a number from ``low`` to ``high``."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ConfigError(name, value, f"must be a number from {low:g} to {high:g}")


def status_codes(name: str, value: object) -> frozenset[str]:
    """Convert names in any case, or ``grpc.StatusCode`` members, to names of status codes."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ConfigError(name, value, 'must be a set of status codes such as {"UNAVAILABLE"}')
    codes = set()
    for item in value:
        code = item if isinstance(item, str) else getattr(item, "name", None)
        if not isinstance(code, str):
            raise ConfigError(name, item, "must be a grpc.StatusCode or its name")
        if code.upper() not in CODES:
            raise unknown_name(name, code, CODES[1:])
        if code.upper() == "OK":
            raise ConfigError(name, item, "OK is not a failure and cannot be retried")
        codes.add(code.upper())
    return frozenset(codes)


def flag(name: str, value: object) -> None:
    """Require True or False."""
    if not isinstance(value, bool):
        raise ConfigError(name, value, "must be True or False")
