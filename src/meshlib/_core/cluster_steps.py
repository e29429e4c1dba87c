"""Serialized steps of a cluster, and their commands to the shell."""

from collections import deque
from collections.abc import Callable
from typing import TypeVar, final

from meshlib._core.commands import ClusterCommand
from meshlib._core.events import ChannelEvent, ChannelObserver
from meshlib._core.serial import Threads, WorkSerializer

__all__ = ["ClusterCommands", "ClusterSteps"]

T = TypeVar("T")

ClusterCommands = tuple[ClusterCommand, ...]


@final
class ClusterSteps:
    """Runs the steps of a cluster one at a time, and collects commands and events.

    Args:
        threads: of the shell.
        attention: makes the control plane call ``on_timer`` soon; called outside of steps.
        observer: receives the events; None: events are not recorded.
    """

    __slots__ = ("_attention", "_observer", "commands", "events", "serializer")

    def __init__(self, threads: Threads, attention: Callable[[], None], observer: ChannelObserver | None) -> None:
        self.serializer = WorkSerializer(threads)
        self.commands: deque[ClusterCommand] = deque()
        """Commands of past steps that the shell has not taken yet."""
        self.events: deque[ChannelEvent] | None = None if observer is None else deque()
        """Events of past steps that have not been published yet."""
        self._attention = attention
        self._observer = observer

    def run(self, step: Callable[[], T], otherwise: T, *, later: bool = True) -> T:
        """Run a step for a caller. While another step is running, returns ``otherwise``; the thread inside that step
        runs this one later, unless ``later`` is False."""
        found = self.serializer.run(step, otherwise, later=later)
        if self.commands:
            self._attention()  # this thread ran steps that the control plane had queued
        return found

    def perform(self, step: Callable[[], None], *, later: bool = True) -> ClusterCommands:
        """Run a step for the control plane, without waiting for another thread. Returns all commands so far."""
        self.serializer.run(step, None, later=later, patient=False)
        self.publish()
        return self.take()

    def take(self) -> ClusterCommands:
        """Remove and return the commands so far."""
        taken = []
        while self.commands:
            try:
                taken.append(self.commands.popleft())
            except IndexError:  # another thread was quicker
                break
        return tuple(taken)

    def note(self, event: ChannelEvent) -> None:
        """Record ``event``, to be published after the next step of the control plane."""
        if self.events is not None:
            self.events.append(event)

    def publish(self) -> None:
        """Pass recorded events to the observer, outside of steps."""
        if self._observer is None:
            return
        while self.events:
            try:
                event = self.events.popleft()
            except IndexError:  # another thread was quicker
                break
            self._observer.on_channel_event(event)
