"""The requests of a stream, buffered while another attempt may need them."""

from typing import final

__all__ = ["Replay"]


@final
class Replay:
    """Serialised requests by their index in the stream, from the first that may still be needed.

    Args:
        limit: bytes buffered for another attempt; 0: none.
    """

    __slots__ = ("_first", "_messages", "half_closed", "limit", "size")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        """Bytes of all messages so far, the dropped ones too, which another attempt would have to send."""
        self.half_closed = False
        """Whether no more messages follow."""
        self._messages: list[bytes | None] = []
        self._first = 0

    def append(self, message: bytes | None) -> bool:
        """Add a request; return whether all of them still fit, so that another attempt could send them.

        The message is kept either way: it must still be sent once. None is from a failed serializer; grpc sends it as
        an empty message.
        """
        self.size += 0 if message is None else len(message)
        self._messages.append(message)
        return self.replayable

    @property
    def replayable(self) -> bool:
        """Whether another attempt could send all of them."""
        return self._first == 0 and self.size <= self.limit

    @property
    def end(self) -> int:
        """The index of the next message."""
        return self._first + len(self._messages)

    def __getitem__(self, index: int) -> bytes | None:
        """Return the message at ``index``.

        Raises:
            IndexError: it was dropped, or does not exist yet.
        """
        if index < self._first:
            raise IndexError(f"message {index} was dropped; the first one kept is {self._first}")
        return self._messages[index - self._first]

    def drop(self, index: int) -> None:
        """Drop messages before ``index``: the committed attempt has sent them."""
        if index > self._first:
            del self._messages[: index - self._first]
            self._first = index

    def __repr__(self) -> str:
        closed = ", half-closed" if self.half_closed else ""
        return f"<Replay {len(self._messages)} of {self.end} messages, {self.size} of {self.limit} bytes{closed}>"
