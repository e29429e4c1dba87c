"""Request metadata: what the caller gave, and what the mesh adds for one attempt."""

from collections.abc import Iterable
from typing import Any, Final

__all__ = ["PREVIOUS_ATTEMPTS_KEY", "Metadata", "for_attempt", "given"]

PREVIOUS_ATTEMPTS_KEY: Final = "grpc-previous-rpc-attempts"
"""How many attempts a server may have seen before this one; absent on the first (gRFC A6)."""

Metadata = tuple[tuple[str, Any], ...]


def given(metadata: Iterable[tuple[str, Any]] | None) -> Metadata:
    """The caller's metadata, in a form that can be sent more than once."""
    return () if metadata is None else tuple(metadata)


def for_attempt(metadata: Metadata, previous: int) -> Metadata | None:
    """The metadata of an attempt that ``previous`` attempts went before."""
    if previous:
        return (*metadata, (PREVIOUS_ATTEMPTS_KEY, str(previous)))
    return metadata or None
