"""Timed waits for an item of a SimpleQueue end."""

import threading
from queue import Empty, SimpleQueue
from random import Random

import pytest

from meshlib._adapt.timed_queue import take
from meshlib._sync.clock import CLOCK

PATIENCE = 30.0


def test_waits_of_a_microsecond_end(rng: Random) -> None:
    """CPython's own wait for ever, once in some hundred, up to 3.12: a backoff may have so little time left."""

    def waits() -> None:
        for _ in range(5_000):
            with pytest.raises(Empty):
                take(SimpleQueue[None](), rng.random() * 3e-6)
            assert not CLOCK.event().wait(rng.random() * 3e-6)
        ended.set()

    ended = threading.Event()
    threading.Thread(target=waits, daemon=True).start()
    assert ended.wait(PATIENCE)


def test_an_item_is_taken() -> None:
    """One that is there, and one that another thread puts later."""
    queue = SimpleQueue[int]()
    queue.put(1)
    assert take(queue, 0.0) == 1
    threading.Timer(0.01, queue.put, [2]).start()
    assert take(queue, PATIENCE) == 2
    with pytest.raises(Empty):
        take(queue, -1.0)


def test_a_flag_stays_set() -> None:
    """For every later wait, also without a limit."""
    flag = CLOCK.event()
    assert not flag.wait(0.0)
    flag.set()
    assert flag.wait(None)
    assert flag.wait(0.0)
