"""Blocking calls through grpcio's private interface, and their errors as values."""

import re
from collections.abc import Callable
from typing import Any

PATIENCE = 10.0
VARYING = re.compile(r"created_time:\S+|:\d{4,5}|fd:\d+")
"""Parts of C-core's text that vary from call to call: times and ports."""

Call = Callable[[Any], Any]


def account(error: Any) -> list[object]:
    """Every property of an error."""
    facts = [type(error), error.code(), error.details(), error.initial_metadata(), error.trailing_metadata()]
    facts.append(error._state.response)
    texts = [error.debug_error_string(), str(error), repr(error)]
    return [*facts, *(VARYING.sub("", text or "") for text in texts)]


def facts(call: Any) -> list[object]:
    """Every property of the call object of a success."""
    told: list[Any] = []
    call.add_done_callback(lambda same: told.append(same is call))
    told += [type(call), call.code(), call.details(), call.initial_metadata(), call.trailing_metadata()]
    told += [call.done(), call.running(), call.is_active(), call.time_remaining(), call.add_callback(told.clear)]
    told += [call.cancel(), call.cancelled(), call.result(), call.exception(), call.traceback()]
    return [*told, call.debug_error_string(), *(VARYING.sub("", text) for text in (str(call), repr(call)))]


def ask(multicallable: Any) -> Any:
    """An ordinary call."""
    return multicallable(b"x", PATIENCE, None, None, None, None)
