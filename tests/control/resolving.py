"""A scripted resolver and channels for tests of the shared resolution."""

from collections.abc import Callable, Coroutine
from itertools import pairwise
from random import Random
from typing import Any

from meshlib._control.shared import Resolutions, SharedResolution
from meshlib._core.endpoint import Endpoint, Resolution
from meshlib._core.target import parse_target

Clock = Callable[[], float]
Virtually = Callable[[Callable[[Clock], Coroutine[Any, Any, None]]], None]

A, B = Endpoint(address="127.0.0.1:1"), Endpoint(address="127.0.0.1:2")


class Scripted:
    """A user's resolver with scripted answers that records each call and its time."""

    def __init__(self, clock: Clock, *answers: object) -> None:
        self.clock = clock
        self.answers = list(answers)
        self.asked: list[tuple[float, Resolution | None]] = []

    async def resolve(self, previous: Resolution | None) -> Resolution:
        """Return the next answer of the script; the last one repeats."""
        self.asked.append((self.clock(), previous))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if callable(answer):
            answer = await answer()
        if isinstance(answer, BaseException):
            raise answer
        assert isinstance(answer, Resolution) or answer is None
        return answer  # type: ignore[return-value]

    @property
    def times(self) -> list[float]:
        """Seconds between the resolutions."""
        moments = [moment for moment, _ in self.asked]
        return [round(later - earlier, 3) for earlier, later in pairwise(moments)]


class Channel:
    """Records the reports to a channel."""

    def __init__(self, shared: SharedResolution) -> None:
        self.heard: list[object] = []
        self.leave = shared.subscribe(lambda resolution: self.heard.append(resolution.endpoints), self.heard.append)


def resolutions(clock: Clock, rng: Random) -> Resolutions:
    """The table of a loop, with the test's own environment."""
    return Resolutions(clock=clock, rng=rng, environ={})


def found(*endpoints: Endpoint, ttl: float | None = 10.0) -> Resolution:
    """A successful resolution."""
    return Resolution(endpoints=endpoints, ttl=ttl)


NAME = f"{__name__}.Scripted"
TARGET = parse_target("svc-a:1")
