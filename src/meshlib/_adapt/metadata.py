"""Request metadata: the caller's, and that added for one attempt."""

import re
from collections.abc import Iterable
from typing import Any, Final

from meshlib._core.status import local

__all__ = ["EMPTY_PATIENCE", "INVALID_METADATA", "PREVIOUS_ATTEMPTS_KEY", "Metadata", "for_attempt", "given", "valid"]

PREVIOUS_ATTEMPTS_KEY: Final = "grpc-previous-rpc-attempts"
"""Number of attempts a server may have seen before this one; absent on the first (gRFC A6)."""

EMPTY_PATIENCE: Final = 0.1
"""Seconds within which an attempt without initial metadata reports its failure. Until then grpc shows empty metadata.
The call returns it only if it lasts that long, and is not committed by that."""

INVALID_METADATA: Final = local("INTERNAL", "Invalid metadata")
"""grpc's own answer, verbatim."""

Metadata = tuple[tuple[str, Any], ...]


def given(metadata: Iterable[tuple[str, Any]] | None) -> Metadata:
    """Return the caller's metadata in a form that can be sent more than once."""
    return () if metadata is None else tuple(metadata)


def for_attempt(metadata: Metadata, previous: int, carrier: Metadata = ()) -> Metadata | None:
    """Return the metadata of an attempt after ``previous`` others, with its own ``carrier``."""
    if previous:
        return (*metadata, *carrier, (PREVIOUS_ATTEMPTS_KEY, str(previous)))
    return (*metadata, *carrier) or None


_ORDINARY_KEY: Final = re.compile(r"[-_.0-9a-z]+(?<!-bin)").fullmatch
_ORDINARY_VALUE: Final = re.compile(r"[ -~]*").fullmatch
_KEY: Final = re.compile(rb"[-_.0-9a-z]+")
_VALUE: Final = re.compile(rb"[ -~]*")


def valid(metadata: Metadata) -> bool:
    """Whether C-core accepts the metadata; otherwise it answers INTERNAL.

    grpc checks it when it starts an attempt. A call that waits for a host first must also fail at once.

    Raises:
        TypeError: a part has the wrong type; type and text of the error are grpc's.
        ValueError: an item is not a pair.
    """
    for item in metadata:
        try:
            key, value = item
        except TypeError:
            iter(item)
            raise
        except ValueError:
            count = len(item)
            if count > 2:
                raise ValueError("too many values to unpack (expected 2)") from None
            raise ValueError(f"need more than {count} value{'s' * (count != 1)} to unpack") from None
        if type(key) is type(value) is str and _ORDINARY_KEY(key) and _ORDINARY_VALUE(value):
            continue
        name = _encoded(key)
        if name.endswith(b"-bin"):
            if not isinstance(value, bytes):
                raise TypeError(f'Binary metadata key="{key}" expected bytes, got {type(value)}')
        elif not _VALUE.fullmatch(_encoded(value)):
            return False
        if not _KEY.fullmatch(name):
            return False
    return True


def _encoded(text: Any) -> bytes:
    if text is None:
        return b""
    if isinstance(text, bytes):
        return text
    if isinstance(text, str):
        return text.encode("utf-8")
    raise TypeError(f"Expected str, not {type(text)}")
