"""The method policies of a service config."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

from meshlib._core.attempts.policy import HedgingPolicy, RetryPolicy
from meshlib._core.checks import status_codes
from meshlib._core.policy import UNSET, MethodPolicy, Unset
from meshlib._core.service_config.document import Node
from meshlib._core.service_config.schema import HEDGING, METHOD, NAME, RETRY, fields, made
from meshlib._core.status import CODES

__all__ = ["methods"]

_OFF: Final[Mapping[str, Any]] = {"retry": None, "timeout": None, "wait_for_ready": False}


def methods(node: Node) -> Mapping[str, MethodPolicy]:
    """Return the policies of ``methodConfig``, by a ``MethodTable``'s names of methods."""
    policies: dict[str, MethodPolicy] = {}
    paths: dict[str, str] = {}
    for entry in node.items():
        given = fields(entry, METHOD)
        policy = MethodPolicy(
            retry=_retry(given),
            timeout=given["timeout"].duration() if "timeout" in given else UNSET,
            wait_for_ready=given["waitForReady"].flag() if "waitForReady" in given else UNSET,
        )
        names = given["name"].items()
        if not names:
            raise given["name"].refused("must name at least one method; [{}] matches all methods")
        for name in names:
            key = _key(name)
            if key in paths:
                raise name.refused(f"is already named by {paths[key]}")
            paths[key] = name.path
            policies[key] = policy
    return MappingProxyType({key: _alone(key, policies) for key in policies})


def _alone(key: str, policies: Mapping[str, MethodPolicy]) -> MethodPolicy:
    """Make an entry apply without merging, although a ``MethodTable`` merges entries field by field. A field that only
    a less specific entry sets is switched off."""
    policy = policies[key]
    others = [policies[name] for name in (f"{key.rpartition('/')[0]}/*", "*") if name in policies and name != key]
    left_out = {
        name: off
        for name, off in _OFF.items()
        if getattr(policy, name) is UNSET and any(getattr(other, name) is not UNSET for other in others)
    }
    return replace(policy, **left_out)


def _key(node: Node) -> str:
    given = fields(node, NAME)
    service = _part(given.get("service"), "a service with its package")
    method = _part(given.get("method"), "a method without its service")
    if method and not service:
        raise node.refused("a method needs a service")
    return f"/{service}/{method or '*'}" if service else "*"


def _part(node: Node | None, what: str) -> str:
    if node is None:
        return ""
    text = node.text()
    if "/" in text or text == "*":
        raise node.refused(f'must be {what}, without "/" or "*"; omit it to match all of them')
    return text


def _retry(given: Mapping[str, Node]) -> RetryPolicy | HedgingPolicy | Unset:
    retry, hedging = given.get("retryPolicy"), given.get("hedgingPolicy")
    if hedging is not None:
        if retry is not None:
            raise hedging.refused("conflicts with retryPolicy; a method is retried or hedged, not both")
        return _hedging_policy(fields(hedging, HEDGING))
    return UNSET if retry is None else _retry_policy(fields(retry, RETRY))


def _retry_policy(given: Mapping[str, Node]) -> RetryPolicy:
    codes = _codes(given["retryableStatusCodes"])
    if not codes:
        raise given["retryableStatusCodes"].refused("must name at least one status code")
    limit = given.get("perAttemptRecvTimeout")
    seconds = None if limit is None else limit.duration()
    if limit is not None and "UNAVAILABLE" not in codes:
        # C-core retries it whatever the codes. Adding the code unasked would retry much else.
        raise limit.refused('is retried like UNAVAILABLE: add "UNAVAILABLE" to retryableStatusCodes')
    return made(
        given,
        lambda: RetryPolicy(
            max_attempts=given["maxAttempts"].whole(),
            initial_backoff=given["initialBackoff"].duration(),
            max_backoff=given["maxBackoff"].duration(),
            backoff_multiplier=given["backoffMultiplier"].number(),
            retryable_status_codes=codes,
            per_attempt_timeout=seconds,
        ),
    )


def _hedging_policy(given: Mapping[str, Node]) -> HedgingPolicy:
    # "Set this to "0s", or leave unset, to immediately send all maxAttempts RPCs": gRFC A6; not our own default.
    return made(
        given,
        lambda: HedgingPolicy(
            max_attempts=given["maxAttempts"].whole(),
            hedging_delay=given["hedgingDelay"].duration(zero=True) if "hedgingDelay" in given else 0.0,
            non_fatal_status_codes=_codes(given.get("nonFatalStatusCodes")),
        ),
    )


def _codes(node: Node | None) -> frozenset[str]:
    found: frozenset[str] = frozenset()
    for item in [] if node is None else node.items():
        code = item.value
        if isinstance(code, int) and not isinstance(code, bool) and 0 <= code < len(CODES):
            code = CODES[code]
        if not isinstance(code, str):
            raise item.refused(f"must be the name of a status code, or its number, 1 to {len(CODES) - 1}")
        found |= status_codes(item.path, (code,))
    return found
