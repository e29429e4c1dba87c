"""The dispatcher of commands."""

import typing
from typing import Any

import pytest

from meshlib._core.attempt import AttemptRecord
from meshlib._core.commands import (
    CallCommand,
    CancelAttempt,
    Close,
    ClusterCommand,
    Diagnose,
    Finish,
    Open,
    Rebuild,
    RequestReresolution,
    StartAttempt,
    StateChanged,
    Wake,
)
from meshlib._core.connectivity import READY
from meshlib._core.dispatch import dispatch, dispatch_call
from meshlib._core.endpoint import Endpoint
from meshlib._core.host import HostEntry
from meshlib._core.status import OK

HOST = HostEntry(Endpoint(address="a"))
FOLLOWING = (StateChanged(READY),)


class Ports:
    """Records calls."""

    def __init__(self) -> None:
        self.called: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        def port(*arguments: object) -> object:
            self.called.append((name, *arguments))
            return FOLLOWING if name in ("open", "rebuild") else None

        return port


CASES = [
    (Open(HOST), ("open", HOST), FOLLOWING),
    (Close(HOST), ("close", HOST, None), ()),
    (Diagnose(HOST), ("diagnose", HOST, None), ()),
    (Rebuild(), ("rebuild",), FOLLOWING),
    (Wake(()), ("wake", ()), ()),
    (StateChanged(READY), ("state_changed", READY), ()),
    (RequestReresolution(), ("request_reresolution",), ()),
]


@pytest.mark.parametrize(("command", "called", "following"), CASES, ids=lambda case: type(case).__name__)
def test_each_command_has_a_port(
    command: ClusterCommand, called: tuple[object, ...], following: tuple[object, ...]
) -> None:
    """One port is called, with the values of the command; its answer is returned."""
    ports = Ports()
    assert dispatch(command, ports) == following
    assert ports.called == [called]


RECORD = AttemptRecord(1, HOST, None, 0.0)

CALL_CASES = [
    (StartAttempt(RECORD), ("start_attempt", RECORD)),
    (CancelAttempt(2), ("cancel_attempt", 2)),
    (Finish(OK, 1), ("finish", OK, 1)),
]


@pytest.mark.parametrize(("command", "called"), CALL_CASES, ids=lambda case: type(case).__name__)
def test_each_command_of_a_call_has_a_port(command: CallCommand, called: tuple[object, ...]) -> None:
    """One port is called, with the values of the command."""
    ports = Ports()
    dispatch_call(command, ports)
    assert ports.called == [called]


def test_no_command_is_left_out() -> None:
    """The cases are all commands of clusters and calls."""
    assert {type(command) for command, *_ in CASES} == set(typing.get_args(ClusterCommand))
    assert {type(command) for command, _ in CALL_CASES} == set(typing.get_args(CallCommand))


def test_commands_name_their_host() -> None:
    """In logs of a debugger and in failed assertions."""
    assert repr(Diagnose(HOST)) == "<diagnose a>"
    assert repr(StartAttempt(RECORD)) == "<start 1 a first>"
