"""The table of stages is the order of execution: every call is a path through the table."""

from itertools import groupby
from operator import itemgetter

import pytest
from tests.shells import machine
from tests.shells.script import KINDS, Script
from tests.shells.trace import Entry

from meshlib._core.stages import STAGES

LEVEL = {stage.name: level for level, stage in enumerate(STAGES)}
SEND = LEVEL["send"]
TURNS = LEVEL["pick"], LEVEL["breaker"]


def calls(kind: str, seed: int) -> list[list[Entry]]:
    """The entries of each call of a world, in order, up to the end of its span; entries after a close are omitted."""
    script = Script(kind, seed)
    entries = [entry for entry in machine.run(script) if entry[0] < script.close_at and entry[1] >= 0]
    made = []
    for _, group in groupby(sorted(entries, key=itemgetter(1)), key=itemgetter(1)):
        found = list(group)
        ends = [i for i, entry in enumerate(found) if entry[2] == "span end"]
        if ends:
            made.append(found[: ends[0] + 1])
    return made


def levels(entries: list[Entry]) -> list[int]:
    """The depth of a call in the table, entry by entry: 0 is outermost."""
    found = []
    for entry in entries:
        if entry[2] == "event":
            found.append(LEVEL[entry[3]])
        elif entry[2] in ("send", "end"):
            found.append(SEND)
        elif entry[2] in ("span", "span end"):
            found.append(LEVEL["span"])
    return found


@pytest.mark.parametrize("seed", range(100))
def test_a_call_goes_down_the_table_to_send_and_back_up(seed: int) -> None:
    """Down from the span to the send; after an attempt up, and from one stage down again or out; nothing out of
    order."""
    for entries in calls("blocking", seed):
        walk = levels(entries)
        assert walk[0] == walk[-1] == LEVEL["span"]
        # It turns back after a send, a wait that found no host, or a rejection by the circuit breaker.
        last = len(walk) - 2
        bottoms = [i for i, level in enumerate(walk) if level == SEND or (level in TURNS and i == last)]
        legs = [walk[i : j + 1] for i, j in zip([0, *bottoms], [*bottoms, len(walk) - 1], strict=True)]
        for leg in legs:
            turn = leg.index(min(leg))
            down, up = leg[turn:], leg[: turn + 1]
            assert down == sorted(down), f"{leg} of {entries}"
            assert up == sorted(up, reverse=True), f"{leg} of {entries}"


@pytest.mark.parametrize("kind", KINDS)
def test_every_attempt_has_its_stages_in_order(kind: str) -> None:
    """in_flight before send, send before its end, the end before load: for hedges and dropped attempts too."""
    for seed in range(100):
        for entries in calls(kind, seed):
            attempts: dict[int, list[str]] = {}
            for entry in entries:
                if entry[2] in ("send", "end"):
                    attempts.setdefault(entry[3], []).append(entry[2])
                elif entry[2] == "event" and entry[3] in ("in_flight", "load"):
                    attempts.setdefault(dict(entry[4:])["meshlib.attempt.n"], []).append(entry[3])
            for met in attempts.values():
                order = [name for name in ("in_flight", "send", "end", "load") if name in met]
                assert met == order, f"{met} in {kind}/{seed}"
