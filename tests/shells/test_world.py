"""The world itself: virtual time for threads and event loops, and its errors when nothing is runnable."""

import asyncio

import pytest
from tests.shells.baton import Baton, DeadlockError
from tests.shells.loops import Loop
from tests.shells.primitives import Event, Lock, Thread
from tests.shells.script import EPOCH, KINDS, Script, tick
from tests.shells.shells import real


def spawned(baton: Baton, *steps: object) -> None:
    """Run each step on a separate thread until all have ended."""
    for n, step in enumerate(steps):
        baton.spawn(Thread(baton, step, f"thread {n}"))  # type: ignore[arg-type]
    baton.close()


def test_time_jumps_to_whoever_is_due_first() -> None:
    """Waiting threads run in the order of their moments, and no real time passes."""
    baton, seen = Baton(), []

    def sleeper(moment: float) -> None:
        baton.block(moment, "its time")
        seen.append(baton.now)

    moments = [EPOCH + 3600.0, EPOCH + 1.0, EPOCH + 60.0]
    spawned(baton, *(lambda moment=moment: sleeper(moment) for moment in moments))
    assert seen == sorted(moments)


def test_moments_are_on_the_grid_and_never_early() -> None:
    """A wait ends at the first moment of the grid that is not before its end."""
    assert tick(EPOCH) == EPOCH
    assert EPOCH + 0.1 <= tick(EPOCH + 0.1) < EPOCH + 0.1 + 1e-9


def test_a_deadlock_is_told_at_once_with_a_picture() -> None:
    """Two threads that wait for each other's event are named with what they wait for; both unwind."""
    baton = Baton()
    one, other = Event(baton), Event(baton)
    with pytest.raises(DeadlockError, match=r"(?s)nobody can go on: at 1000.*thread 0 waits for an event.*thread 1"):
        spawned(baton, one.wait, other.wait)


def test_a_lock_taken_twice_is_told() -> None:
    """A lock is not re-entrant; the error names the thread that took it twice."""
    baton = Baton()
    lock = Lock(baton)

    def twice() -> None:
        with lock, lock:
            pass

    with pytest.raises(AssertionError, match="thread 0 takes a lock that it holds"):
        spawned(baton, twice)


def test_a_lock_is_handed_on_in_the_order_of_asking() -> None:
    """A waiting thread gets the lock when the holder has slept and left."""
    baton, seen = Baton(), []
    lock = Lock(baton)

    def user(name: str) -> None:
        with lock:
            baton.block(baton.now + 1.0, "a while")
            seen.append((name, baton.now))

    spawned(baton, lambda: user("a"), lambda: user("b"), lambda: user("c"))
    assert seen == [("a", EPOCH + 1.0), ("b", EPOCH + 2.0), ("c", EPOCH + 3.0)]


def test_an_event_loop_that_waits_for_nothing_is_a_deadlock() -> None:
    """A coroutine that awaits what never happens is reported at once."""
    loop = Loop(Baton())
    forever = loop.create_future()
    with pytest.raises(DeadlockError, match="waits for something to do on its event loop"):
        loop.run_until_complete(forever)
    loop.close()


def test_an_event_loop_that_never_waits_is_told() -> None:
    """A callback that calls itself forever stops time, and the error says where."""
    loop = Loop(Baton())

    def again() -> None:
        loop.call_soon(again)

    again()
    with pytest.raises(AssertionError, match="turns and turns at 1000"):
        loop.run_forever()
    loop.close()


def test_an_event_loop_sleeps_in_virtual_time() -> None:
    """Timers fire exactly at their moment."""
    loop = Loop(Baton())
    loop.run_until_complete(asyncio.sleep(86400.0))
    assert loop.time() == EPOCH + 86400.0
    loop.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shell", ["sync", "aio"])
def test_a_world_is_the_same_each_time(shell: str, kind: str) -> None:
    """A script run twice on the same shell gives the same trace."""
    for seed in range(5):
        assert real(shell)(Script(kind, seed)) == real(shell)(Script(kind, seed))
