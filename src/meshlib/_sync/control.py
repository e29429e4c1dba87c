"""Process-wide state of meshlib: one control thread, shared by all sync channels, and its handling of forks.

The control thread runs from the first call until a moment after the last channel closes. It is a daemon and runs an
asyncio loop for the discovery, sweeps and timers of every sync channel. No user code runs on it.

A fork copies none of the threads, and C-core's objects do not survive one reliably. So all state belongs to one
:class:`Process` behind one global. The child parks the inherited one, which is never again used, closed or collected,
and makes a new one; each channel compares identity at each call. Before a fork the parent holds back new attempts and
waits a moment for blocking ones, because C-core skips its fork handlers while a thread is inside a call.
"""

import asyncio
import atexit
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol, final

from meshlib._adapt.grpcio import glances
from meshlib._control import exits
from meshlib._control.shared import Resolutions
from meshlib._core.cluster_calls import ASKING
from meshlib._core.sharing import Sharing
from meshlib._sync.clock import CLOCK, Clock, Event, ExitClock

__all__ = ["Process", "current", "gate", "usable"]

FORK_PATIENCE: Final = 1.0
"""Seconds a fork waits for blocking attempts and for reads of connection states. If it waits too short, calls of the
child may hang; only a call that takes longer makes it wait that long."""

FORK_POLLS: Final = 100
"""Minimum number of polls meanwhile: on a machine that stalls, the seconds may pass without any thread running."""

_FORK_POLL: Final = 0.001  # seconds

_GATE_PATIENCE: Final = 10.0
"""Seconds an attempt waits for a fork."""

EXIT_PATIENCE: Final = 1.0
"""Seconds to wait for the end of the control thread, for example at the exit of the interpreter."""


class ThreadRuntime(Protocol):
    """A channel in use in this process."""

    live: bool
    """Neither closed nor left behind at a fork."""

    def blocked(self) -> int:
        """Number of attempts that block a thread."""
        ...


@final
class Gate:
    """Holds back new attempts while a fork is prepared. An open gate costs one attribute read."""

    __slots__ = ("_opened", "closed", "held")

    def __init__(self) -> None:
        self.closed = False
        self.held = 0
        self._opened = CLOCK.event()

    def shut(self) -> None:
        """Make new attempts wait. No effect if closed: a signal handler may fork while another fork is prepared."""
        if not self.closed:
            self.held = 0  # a thread that arrived as the last fork ended may have counted itself afterwards
            self._opened = CLOCK.event()
            self.closed = True

    def open(self) -> None:
        """Let the attempts continue."""
        self.closed = False
        self.held = 0
        self._opened.set()

    def wait(self) -> None:
        """Wait until the fork is done; bounded, as the fork is."""
        self.held += 1
        self._opened.wait(_GATE_PATIENCE)


@final
class Process:
    """The state of meshlib in one process.

    Args:
        clock: time, locks and threads.
        sharing: which of its subchannels share a connection; None: for a process that has inherited none.
    """

    def __init__(self, clock: Clock = CLOCK, sharing: Sharing | None = None) -> None:
        self.clock = clock
        self.sharing = Sharing() if sharing is None else sharing
        self.pid = os.getpid()
        self._control: _Control | None = None
        """The control thread, while there is one."""
        self.runtimes: weakref.WeakSet[ThreadRuntime] = weakref.WeakSet()
        self.live: weakref.WeakSet[object] = weakref.WeakSet()
        """Calls in flight on futures and streams; a child must not collect them."""
        self._attached: dict[ThreadRuntime, _Control] = {}
        self._idle_since = 0.0
        """When the last runtime was detached."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop of the control thread, if there is one."""
        control = self._control
        return None if control is None else control.loop

    def attach(self, runtime: ThreadRuntime) -> tuple[asyncio.AbstractEventLoop, Resolutions]:
        """Register ``runtime`` with the control thread; return its loop and its resolutions.

        Two threads, or a thread and its signal handler, may each start a control thread at once. A lock could deadlock
        here, so one of the two is ended again.
        """
        try:
            self.runtimes.add(runtime)
            while True:
                control = self._control
                if control is None:
                    control = self._started()
                    if control is None:
                        continue
                self._attached[runtime] = control
                if self._control is control:
                    return control.loop, control.resolutions
                # Its last runtime was detached just now.
                self._attached.pop(runtime, None)
        except BaseException:  # also what a signal handler raises
            self._attached.pop(runtime, None)
            self._end_unused(self._control)
            raise

    def detach(self, runtime: ThreadRuntime, last: Callable[[], None]) -> None:
        """Detach ``runtime``: run ``last`` on the loop, and end the loop a moment after the last runtime."""
        control = self._attached.pop(runtime, None)
        if control is None:
            return
        if self.clock.linger == 0.0:
            control.soon(last)
            self._end_unused(control)
        elif self._attached:
            control.soon(last)
        else:
            # First: a signal handler may raise during the wait for the last step, and the thread must end all the same.
            self._idle_since = self.clock.now()
            if not control.lingers:
                control.lingers = True
                try:
                    control.soon(partial(self._linger, control))
                except BaseException:
                    control.lingers = False
                    raise
            control.finish(last)

    def _linger(self, control: "_Control") -> None:
        """On the loop: end it once no channel has needed it for a while."""
        if self._attached:  # uninterrupted
            control.lingers = False  # uninterrupted
            return
        left = self._idle_since + self.clock.linger - self.clock.now()
        if left > 0.0:
            control.loop.call_later(left, self._linger, control)
        else:
            self._end_unused(control)

    def end_unused(self) -> None:
        """End the control thread at once, if no channel needs it."""
        self._end_unused(self._control)

    def _started(self) -> "_Control | None":
        """Start the control thread of this process; None: another thread was faster."""
        made = _Control(self.clock)
        try:
            made.start()
            if self._control is None:  # uninterrupted
                self._control = made  # uninterrupted
                return made
        finally:
            if self._control is not made:
                made.discard()
        return None

    def _end_unused(self, control: "_Control | None") -> None:
        """End the control thread if it is the current one and no runtime is attached. A thread that is attaching one
        checks again."""
        if control is not None and not self._attached and self._control is control:  # uninterrupted
            self._control = None  # uninterrupted
            control.end()

    @property
    def idle(self) -> bool:
        """Whether no channel is in use."""
        return not self._attached

    @property
    def resolutions(self) -> "Resolutions | None":
        """The resolutions on the control thread, if there is one."""
        control = self._control
        return None if control is None else control.resolutions

    def blocked(self) -> int:
        """Number of attempts that block a thread."""
        return sum(runtime.blocked() for runtime in self.runtimes)


@final
class _Control:
    """The control thread, its loop, and its resolutions. These live and end with the loop: their tasks and events are
    unusable on another.

    Args:
        clock: of the process.
    """

    def __init__(self, clock: Clock) -> None:
        self.loop = clock.loop()
        try:
            self.resolutions = Resolutions(clock=clock.now, rng=clock.rng())
        except BaseException:  # raised by a signal handler
            clock.discard(self.loop)
            raise
        self.thread: threading.Thread | None = None
        self.lingers = False
        """It ends if no channel needs it for a while."""
        self._clock = clock
        self._claims: deque[None] = deque([None])
        """Taken by the owner of the loop: its thread, or the thread that failed to start it."""

    def start(self) -> None:
        """Start the thread. After any exception, also a signal handler's, :meth:`discard` ends it."""
        started = self._clock.event()
        self.thread = self._clock.control(lambda: self._run(started))
        if self.thread is not None:
            started.wait(EXIT_PATIENCE)

    def discard(self) -> None:
        """End an unused control thread, which may not have been started."""
        if self._claimed():
            self._clock.discard(self.loop)
        else:
            self.end()

    def _claimed(self) -> bool:
        try:
            self._claims.popleft()
        except IndexError:
            return False
        return True

    def soon(self, step: Callable[[], object]) -> None:
        """Call ``step`` on the loop, if it has not ended."""
        try:
            self.loop.call_soon_threadsafe(step)
        except RuntimeError:
            return

    def finish(self, step: Callable[[], object]) -> None:
        """Has ``step`` called on it, and waits a moment for that."""
        done = self._clock.event()

        def last() -> None:
            try:
                step()
            finally:
                done.set()

        self.soon(last)
        if self.thread is not None and self.thread is not threading.current_thread() and self.thread.is_alive():
            done.wait(EXIT_PATIENCE)

    def end(self) -> None:
        """Stop the loop, and wait a moment for the thread."""
        self.soon(self.loop.stop)
        if self.thread is not None and self.thread is not threading.current_thread():
            self.thread.join(EXIT_PATIENCE)

    def _run(self, started: Event) -> None:
        if not self._claimed():
            return
        loop = self.loop
        asyncio.set_event_loop(loop)
        loop.call_soon(started.set)
        try:
            loop.run_forever()
        finally:
            loop.run_until_complete(self.resolutions.aclose())
            asyncio.set_event_loop(None)
            loop.close()


gate: Final = Gate()
_process = Process()
_parked: list[object] = []


def current() -> Process:
    """The state of this process."""
    return _process


def usable() -> Process:
    """The state of this process, for a channel that starts: with a control thread, or able to start one; else the
    state of an exiting process."""
    global _process
    if _process.loop is None and exits.threadless():
        _process = Process(ExitClock(), _process.sharing)
    return _process


def _inside() -> bool:
    """Whether another thread is inside a grpc call, or reads a channel's state and so holds its lock. The child would
    wait for that lock forever."""
    if _process.blocked() > gate.held or glances.inside:
        return True
    me = threading.get_ident()
    return any(frame.f_code in ASKING for thread, frame in sys._current_frames().items() if thread != me)


def _before_fork() -> None:
    if not _process.runtimes:
        return
    gate.shut()
    glances.refused = True
    deadline = CLOCK.now() + FORK_PATIENCE
    pause = CLOCK.event()
    polls = 0
    while _inside() and (polls < FORK_POLLS or CLOCK.now() < deadline):
        pause.wait(_FORK_POLL)
        polls += 1


def _after_fork_in_parent() -> None:
    glances.refused = False
    gate.open()


def _after_fork_in_child() -> None:
    global _process
    gate.__init__()  # no thread exists here that would open it
    glances.__init__()
    if _process.runtimes or _process.loop is not None:
        runtimes = list(_process.runtimes)
        for runtime in runtimes:
            runtime.live = False
        _parked.append((_process, runtimes, list(_process.live)))
    clock = CLOCK if isinstance(_process.clock, ExitClock) else _process.clock
    _process = Process(clock, _process.sharing.child())


def _at_exit() -> None:
    """End the control thread of an application that closed no channel, so that it cannot run in a dying interpreter.
    The main thread may still call in later exit handlers: its channels start again, without threads."""
    exits.finished = True
    process = _process
    control = process._control
    if control is None or control.thread is None or process.pid != os.getpid():
        return
    process._control = None
    process._attached.clear()
    for runtime in tuple(process.runtimes):
        runtime.live = False
    control.end()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
