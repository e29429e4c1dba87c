"""Translation of the commands of state machines into method calls on ports.

The engines of the shells perform the commands of calls in loops of their own, which cost less.
"""

from typing import Any, Protocol

from meshlib._core.attempt import AttemptRecord
from meshlib._core.cluster_steps import ClusterCommands
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
from meshlib._core.host import HostEntry
from meshlib._core.status import Outcome
from meshlib._core.waiter import Waiter

__all__ = ["CallPorts", "ClusterPorts", "dispatch", "dispatch_call"]


class ClusterPorts(Protocol):
    """Operations that a shell implements for a cluster. Some of them return further commands."""

    def open(self, host: HostEntry) -> ClusterCommands:
        """Make a subchannel for ``host``, and pass it to ``ClusterMachine.opened``."""
        ...

    def close(self, host: HostEntry, subchannel: Any) -> None:
        """Close ``subchannel``, which is or was that of ``host``."""
        ...

    def diagnose(self, host: HostEntry, subchannel: Any) -> None:
        """Ask ``subchannel`` why it fails, and pass the answer to ``ClusterMachine.on_reason``."""
        ...

    def rebuild(self) -> ClusterCommands:
        """Call ``ClusterMachine.rebuild``, at once or later."""
        ...

    def wake(self, calls: tuple[Waiter, ...]) -> None:
        """Call ``wake()`` of each."""
        ...

    def state_changed(self, state: int) -> None:
        """Notify the watchers of the channel's connectivity."""
        ...

    def request_reresolution(self) -> None:
        """Resolve the target again, subject to the minimum refresh interval."""
        ...


def dispatch(command: ClusterCommand, ports: ClusterPorts) -> ClusterCommands:
    """Perform ``command`` by way of ``ports``. Returns the commands that follow from it."""
    if isinstance(command, Open):
        return ports.open(command.host)
    if isinstance(command, Rebuild):
        return ports.rebuild()
    if isinstance(command, Wake):
        ports.wake(command.calls)
    elif isinstance(command, Close):
        ports.close(command.host, command.subchannel)
    elif isinstance(command, Diagnose):
        ports.diagnose(command.host, command.subchannel)
    elif isinstance(command, StateChanged):
        ports.state_changed(command.state)
    else:
        assert isinstance(command, RequestReresolution)
        ports.request_reresolution()
    return ()


class CallPorts(Protocol):
    """Operations that a shell implements for a call."""

    def start_attempt(self, record: AttemptRecord) -> None:
        """Send the request to ``record.host``, and pass the outcome to ``Call.on_outcome``."""
        ...

    def cancel_attempt(self, n: int) -> None:
        """Cancel attempt ``n``; its outcome is still to be reported."""
        ...

    def finish(self, outcome: Outcome, n: int) -> None:
        """Return ``outcome``, that of attempt ``n`` (0: decided without one), to the caller."""
        ...


def dispatch_call(command: CallCommand, ports: CallPorts) -> None:
    """Perform ``command`` by way of ``ports``."""
    if isinstance(command, StartAttempt):
        ports.start_attempt(command.record)
    elif isinstance(command, CancelAttempt):
        ports.cancel_attempt(command.n)
    else:
        assert isinstance(command, Finish)
        ports.finish(command.outcome, command.n)
