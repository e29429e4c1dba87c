"""Stages around a call, their order, and the reasons for it.

This table is the only definition of the order. It is used by the figure in the documentation, by ``repr(channel)``, by
the names in events and span events, and by the test that checks the order of every trace.
"""

from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["STAGES", "Stage", "figure"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Stage of the chain.

    Args:
        name: its name in events and figures.
        scope: whether it acts once per call or once per attempt.
        inside: it is part of the call's state machine rather than of the shell around it.
        why: why it is above the next stage.
    """

    name: str
    scope: Literal["call", "attempt"]
    inside: bool
    why: str


STAGES: Final = (
    Stage(
        name="interceptors",
        scope="call",
        inside=False,
        why="the application's own code sees one call, as it would on grpc's channel, and its time is not the span's",
    ),
    Stage(
        name="span",
        scope="call",
        inside=False,
        why="one span covers the call with all its attempts and waits, and its context is sent with each of them",
    ),
    Stage(
        name="deadline",
        scope="call",
        inside=True,
        why="it bounds everything below: waits, back-offs and attempts share what is left of it",
    ),
    Stage(
        name="retry",
        scope="call",
        inside=True,
        why="it sees every sibling attempt, so that only one answer is given and only uncommitted calls start again",
    ),
    Stage(
        name="pick",
        scope="attempt",
        inside=True,
        why="each attempt chooses anew, so that a retry leaves the host that failed",
    ),
    Stage(
        name="breaker",
        scope="attempt",
        inside=True,
        why="a rejected attempt is neither counted as in flight nor charged to the picked host",
    ),
    Stage(
        name="in_flight",
        scope="attempt",
        inside=True,
        why="counted with the choice, before the send, so that a host in use is never closed",
    ),
    Stage(
        name="outlier",
        scope="attempt",
        inside=True,
        why="the balancer is notified before the outcome may eject the host",
    ),
    Stage(
        name="load",
        scope="attempt",
        inside=True,
        why="the balancer is notified of every attempt, including picks of other pickers",
    ),
    Stage(
        name="attempt_interceptors",
        scope="attempt",
        inside=False,
        why="the application's own code sees each attempt with the host already chosen",
    ),
    Stage(
        name="send",
        scope="attempt",
        inside=False,
        why="the subchannel of the host: grpc's own channel to one address",
    ),
)


def figure() -> str:
    """Format the chain in one line, the machine's part in brackets."""
    before = [stage.name for stage in STAGES if stage.scope == "call" and not stage.inside]
    inside = [stage.name for stage in STAGES if stage.inside]
    after = [stage.name for stage in STAGES if stage.scope == "attempt" and not stage.inside]
    return " > ".join([*before, f"[ {' > '.join(inside)} ]", *after])
