"""A bounded cache that makes each value on first use."""

import sys
from concurrent.futures import ThreadPoolExecutor

from meshlib._core.bounded_cache import MOST, BoundedCache


def test_it_is_made_when_it_is_first_asked_for_and_then_the_same() -> None:
    """A value is made on first use and returned again afterwards."""
    asked: list[tuple[str, ...]] = []

    def make(key: tuple[str, ...]) -> list[str]:
        asked.append(key)
        return list(key)

    kept = BoundedCache(make)
    assert kept["/a", "b"] is kept[("/a", "b")]
    assert asked == [("/a", "b")]


def test_the_oldest_makes_room() -> None:
    """An unbounded number of keys, such as method names made up by an application, does not fill the memory."""
    kept = BoundedCache(str)
    for key in range(MOST + 3):
        assert kept[key] == str(key)
    assert list(kept) == list(range(3, MOST + 3))


def test_threads_that_make_room_at_once_do_not_disturb_each_other() -> None:
    """Each thread gets the value of its own key."""
    kept = BoundedCache(str)

    def run(first: int) -> bool:
        return all(kept[key] == str(key) for key in range(first, first + 20_000))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(run, range(0, 400_000, 100_000)))
    finally:
        sys.setswitchinterval(interval)
    assert len(kept) <= MOST + 4
