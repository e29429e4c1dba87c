"""The machine of a call under any order of inputs from a shell and any answers of its cluster."""

from random import Random

import pytest
from hypothesis import settings
from tests.core.call_inputs import THROTTLING
from tests.core.call_rules import POLICIES, CallMachine, HedgedCall, RetriedCall
from tests.core.channels import Moves, walk

MOVES: Moves = {
    "arrange": (
        3,
        lambda rng: (
            rng.choice([*"aaabbbccc", "nobody yet", "nobody"]),
            rng.randint(0, 2),
            rng.randint(0, 3),
            rng.choice(["", *"abc"]),
            rng.choice(["", *"abc"]),
            rng.random() < 0.2,
        ),
    ),
    "read": (2, lambda rng: (rng.randrange(5), rng.random() < 0.2)),
    "fail": (4, lambda rng: (rng.randrange(5),)),
    "refuse": (2, lambda rng: (rng.randrange(5),)),
    "come_to_the_timer": (5, lambda _: ()),
    "timer_at_any_time": (2, lambda rng: (rng.choice([0.0, 0.001, 0.3, 1.0]),)),
    "endpoints": (3, lambda _: ()),
}


@pytest.mark.parametrize("kind", [CallMachine, RetriedCall, HedgedCall])
def test_long_stories(kind: type[CallMachine], rng: Random) -> None:
    """Two hundred and fifty calls of each kind, each prolonged by failures."""
    for _ in range(250):
        machine = kind()
        machine.start(
            rng.choice(POLICIES[kind]),
            deadline=rng.choice([None, None, 20.0]),
            streaming=rng.random() < 0.5,
            wait_for_ready=rng.random() < 0.3,
            places=rng.randrange(4),
            throttling=rng.choice(THROTTLING),
            max_retries=rng.choice([None, None, 0, 1, 2]),
            seed=rng.getrandbits(32),
        )
        machine.begin()
        walk(machine, MOVES, steps=30, rng=rng)


TestPlainCall = CallMachine.TestCase
TestRetriedCall = RetriedCall.TestCase
TestHedgedCall = HedgedCall.TestCase
TestPlainCall.settings = settings(max_examples=30, stateful_step_count=20)
TestRetriedCall.settings = TestHedgedCall.settings = settings(max_examples=60, stateful_step_count=30)
