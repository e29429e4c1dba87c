"""A JSON document that is read with care: every refusal names the path, the value and what is allowed.

Numbers and durations are read as proto3's JSON mapping has them, since what describes such documents is a ``.proto``
file: null is as good as absent, a number may be written as a string, and a duration is a string, ``"1.5s"``.
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
"""The field of an object that names another which was given twice."""
_SHOWN: Final = 80
"""Characters of a name that are worth a place in a path."""


@final
class Node:
    """One value of a document.

    Args:
        path: where it stands, ``"service_config.methodConfig[0].timeout"``.
        value: as the JSON module makes it.
    """

    __slots__ = ("path", "value")

    def __init__(self, path: str, value: Any) -> None:
        self.path = path
        self.value = value

    def refused(self, allowed: str) -> ConfigError:
        """The error for this value."""
        return ConfigError(self.path, self.value, allowed)

    def fields(
        self, known: Collection[str], required: Collection[str], problem: Callable[[str], str]
    ) -> dict[str, "Node"]:
        """The fields of an object that are there.

        Args:
            known: names that may be.
            required: names that must be.
            problem: what is wrong with a name that may not.
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
        """The name and the value of an object's one field."""
        value = self._object()
        if len(value) != 1:
            raise self.refused("must have exactly one field")
        ((name, child),) = value.items()
        return name, Node(f"{self.path}.{name[:_SHOWN]}", child)

    def items(self) -> list["Node"]:
        """The items of an array."""
        if not isinstance(self.value, list | tuple):
            raise self.refused("must be a JSON array")
        return [Node(f"{self.path}[{index}]", item) for index, item in enumerate(self.value)]

    def text(self) -> str:
        """A string."""
        if not isinstance(self.value, str):
            raise self.refused("must be a string")
        return self.value

    def flag(self) -> bool:
        """True or false."""
        if not isinstance(self.value, bool):
            raise self.refused("must be true or false")
        return self.value

    def whole(self) -> int:
        """A whole number, as it is or as a string; 3.0 is one."""
        value = self.value
        if isinstance(value, str) and _WHOLE.fullmatch(value):
            return int(value)
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.refused("must be a whole number")
        return value

    def number(self) -> float:
        """A finite number, as it is or as a string."""
        value = self.value
        if isinstance(value, str) and _NUMBER.fullmatch(value):
            value = float(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.refused("must be a number")
        # Of floats alone: a whole number may be too large for the question.
        if isinstance(value, float) and not math.isfinite(value):
            raise self.refused("must be a number")
        return value

    def duration(self, *, zero: bool = False) -> float:
        """Seconds from a string such as ``"1.5s"``."""
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
    """The document in a text, or in what the JSON module has made of it.

    Args:
        given: the text or the mapping.
        field: what it is called; where the paths begin.

    Raises:
        ConfigError: it is neither, or no JSON.
    """
    if isinstance(given, Mapping):
        return Node(field, given)
    if not isinstance(given, str):
        raise ConfigError(field, given, "must be JSON text or a mapping")
    try:
        return Node(field, json.loads(given, object_pairs_hook=_object, parse_constant=_no_number))
    except json.JSONDecodeError as error:
        problem = f"{error.msg} at line {error.lineno}, column {error.colno}"
    # A number or a nesting that is too much for Python.
    except (ValueError, RecursionError) as error:
        problem = str(error)
    raise ConfigError(field, given, f"must be JSON: {problem}")


def _object(pairs: list[tuple[str, Any]]) -> dict[Any, Any]:
    """A JSON object that is marked where a name was given twice; a plain one forgets all values but the last."""
    made: dict[Any, Any] = dict(pairs)
    if len(made) < len(pairs):
        made[_TWICE] = Counter(name for name, _ in pairs).most_common(1)[0][0]
    return made


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")
