"""A JSON document, checked strictly: every error names the path, the value and what is allowed.

Numbers and durations follow proto3's JSON mapping, since a ``.proto`` file describes such documents: null means absent,
a number may be a string, and a duration is a string, ``"1.5s"``.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, NoReturn, final

from meshlib._core.errors import ConfigError

__all__ = ["Node", "load"]

LONGEST: Final = 315_576_000_000
"""Seconds; the longest ``google.protobuf.Duration``, 10,000 years."""

_DURATION: Final = re.compile(r"[0-9]*(\.[0-9]{1,9})?(?<=[0-9])s")
"""gRFC A6 writes ``".1s"``."""
_WHOLE: Final = re.compile(r"-?[0-9]{1,18}")
_NUMBER: Final = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?([eE][+-]?[0-9]{1,3})?")
_TWICE: Final = object()
"""Key of an object for the name of a field that was given twice."""
_SHOWN: Final = 80
"""Maximum characters of a name in a path."""


@final
class Node:
    """One value of a document.

    Args:
        path: such as ``"service_config.methodConfig[0].timeout"``.
        value: as parsed by the JSON module.
    """

    __slots__ = ("path", "value")

    def __init__(self, path: str, value: Any) -> None:
        self.path = path
        self.value = value

    def refused(self, allowed: str) -> ConfigError:
        """Return the error for this value."""
        return ConfigError(self.path, self.value, allowed)

    def fields(
        self, known: Collection[str], required: Collection[str], problem: Callable[[str], str]
    ) -> dict[str, "Node"]:
        """Return the fields of an object.

        Args:
            known: allowed names.
            required: required names.
            problem: describes an unknown name.
        """
        value = self._object()
        for name in value:
            if name not in known:
                raise ConfigError(f"{self.path}.{name[:_SHOWN]}", value[name], problem(name[:_SHOWN]))
        found = {name: Node(f"{self.path}.{name}", child) for name, child in value.items() if child is not None}
        for name in required:
            if name not in found:
                raise ConfigError(f"{self.path}.{name}", None, "is required")
        return found

    def only(self) -> tuple[str, "Node"]:
        """Return the name and the value of an object's one field."""
        value = self._object()
        if len(value) != 1:
            raise self.refused("must have exactly one field")
        ((name, child),) = value.items()
        return name, Node(f"{self.path}.{name[:_SHOWN]}", child)

    def items(self) -> list["Node"]:
        """Return the items of an array."""
        if not isinstance(self.value, list | tuple):
            raise self.refused("must be a JSON array")
        return [Node(f"{self.path}[{index}]", item) for index, item in enumerate(self.value)]

    def text(self) -> str:
        """Return a string."""
        if not isinstance(self.value, str):
            raise self.refused("must be a string")
        return self.value

    def flag(self) -> bool:
        """Return true or false."""
        if not isinstance(self.value, bool):
            raise self.refused("must be true or false")
        return self.value

    def whole(self) -> int:
        """Return a whole number, perhaps from a string; 3.0 is one."""
        value = self.value
        if isinstance(value, str) and _WHOLE.fullmatch(value):
            return int(value)
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.refused("must be a whole number")
        return value

    def number(self) -> float:
        """Return a finite number, perhaps from a string."""
        value = self.value
        if isinstance(value, str) and _NUMBER.fullmatch(value):
            value = float(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.refused("must be a number")
        # Only floats: an int may be too large for isfinite.
        if isinstance(value, float) and not math.isfinite(value):
            raise self.refused("must be a number")
        return value

    def duration(self, *, zero: bool = False) -> float:
        """Return the seconds of a string such as ``"1.5s"``."""
        value = self.value
        if isinstance(value, str) and _DURATION.fullmatch(value):
            seconds = float(value[:-1])
            if 0 < seconds <= LONGEST or (zero and not seconds):
                return seconds
        least = "0 or more" if zero else "more than 0"
        raise self.refused(f'must be a duration in seconds such as "1.5s", {least} and at most {LONGEST}')

    def _object(self) -> Mapping[str, Any]:
        value = self.value
        if not isinstance(value, Mapping):
            raise self.refused("must be a JSON object")
        if _TWICE in value:
            name = value[_TWICE]
            raise ConfigError(f"{self.path}.{name[:_SHOWN]}", value[name], "is given twice in one object")
        for name in value:
            if not isinstance(name, str):
                raise ConfigError(self.path, name, "the name of a field must be a string")
        return value


def load(given: object, field: str) -> Node:
    """Return the document in a text, or in a mapping parsed by the JSON module.

    Args:
        given: the text or the mapping.
        field: its name, where the paths begin.

    Raises:
        ConfigError: it is neither, or not JSON.
    """
    if isinstance(given, Mapping):
        return Node(field, given)
    if not isinstance(given, str):
        raise ConfigError(field, given, "must be JSON text or a mapping")
    try:
        return Node(field, json.loads(given, object_pairs_hook=_object, parse_constant=_no_number))
    except json.JSONDecodeError as error:
        problem = f"{error.msg} at line {error.lineno}, column {error.colno}"
    # A number or a nesting beyond Python's limits.
    except (ValueError, RecursionError) as error:
        problem = str(error)
    raise ConfigError(field, given, f"must be JSON: {problem}")


def _object(pairs: list[tuple[str, Any]]) -> dict[Any, Any]:
    """Make an object that records a name given twice; a plain one keeps only the last value."""
    made: dict[Any, Any] = dict(pairs)
    if len(made) < len(pairs):
        made[_TWICE] = Counter(name for name, _ in pairs).most_common(1)[0][0]
    return made


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")
