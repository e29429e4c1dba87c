"""The replay buffer of request streams."""

import pytest

from meshlib._core.attempts.replay import Replay


def test_messages_stay_until_dropped() -> None:
    """Every message can be read by its index, repeatedly, until it is dropped."""
    replay = Replay(10)
    assert [replay.append(b"abc"), replay.append(b""), replay.append(b"defg")] == [True, True, True]
    assert [replay[index] for index in range(replay.end)] == [b"abc", b"", b"defg"]
    replay.drop(2)
    assert replay[2] == b"defg"
    assert replay.end == 3
    with pytest.raises(IndexError, match="message 1 was dropped; the first one kept is 2"):
        replay[1]
    with pytest.raises(IndexError):
        replay[3]


def test_more_than_fits_is_kept_but_not_replayable() -> None:
    """The message that exceeds the limit can still be sent, and reports the overflow."""
    replay = Replay(4)
    assert replay.append(b"1234")
    assert not replay.append(b"5")
    assert replay[0] == b"1234"
    assert replay[1] == b"5"
    assert replay.size == 5


def test_a_limit_of_nothing_keeps_only_what_is_empty() -> None:
    """A limit of 0 allows a replay until a byte is added."""
    replay = Replay(0)
    assert replay.append(None)
    assert replay.append(b"")
    assert not replay.append(b"1")


def test_what_was_dropped_cannot_be_replayed() -> None:
    """Dropping commits to one attempt, even if there is space."""
    replay = Replay(100)
    replay.append(b"1")
    replay.drop(1)
    assert not replay.replayable
    replay.drop(0)
    assert repr(replay) == "<Replay 0 of 1 messages, 1 of 100 bytes>"
    replay.half_closed = True
    assert "half-closed" in repr(replay)
