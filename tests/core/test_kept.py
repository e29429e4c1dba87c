"""What is made once for a key, and how much of it is kept."""

from meshlib._core.kept import MOST, Kept


def test_it_is_made_when_it_is_first_asked_for_and_then_the_same() -> None:
    """Not made anew."""
    asked: list[tuple[str, ...]] = []

    def make(key: tuple[str, ...]) -> list[str]:
        asked.append(key)
        return list(key)

    kept = Kept(make)
    assert kept["/a", "b"] is kept[("/a", "b")]
    assert asked == [("/a", "b")]


def test_the_oldest_makes_room() -> None:
    """Keys without end, as of an application that makes up the names of methods, do not fill the memory."""
    kept = Kept(str)
    for key in range(MOST + 3):
        assert kept[key] == str(key)
    assert list(kept) == list(range(3, MOST + 3))
