"""ConfigError: the only exception of the core, raised only while a channel is configured."""

from collections.abc import Iterable
from difflib import get_close_matches
from reprlib import Repr
from typing import Final

__all__ = ["ConfigError", "unknown_name"]


class _Short(Repr):
    def repr_int(self, x: int, level: int) -> str:
        """Show integers of any size: Python refuses to print more than 4300 digits, and raises instead."""
        return super().repr_int(x, level) if x.bit_length() < 10_000 else f"<a number of {x.bit_length()} bits>"


_SHORT: Final = _Short()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 200


class ConfigError(ValueError):
    """Invalid configuration value.

    Raised at construction only, never by a call. The message names the field, the value and what is allowed.
    """

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(f"{field}={_SHORT.repr(value)}: {allowed}")
        self.field = field
        self.value = value
        self.allowed = allowed


def unknown_name(field: str, name: str, known: Iterable[str]) -> ConfigError:
    """Create the error for an unregistered name: lists the known names and suggests a close one."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return ConfigError(field, name, f"unknown name; known: {', '.join(names)}{hint}")
