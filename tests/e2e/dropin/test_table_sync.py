"""The proof that one word may be swapped: whatever happens to a call, its caller finds out the same."""

import pytest
from tests.e2e.dropin.scenarios import SCENARIOS, Scenario
from tests.e2e.dropin.subjects import GRPC, MESHLIB
from tests.e2e.dropin.sync_calls import KINDS, Kind, observe

TABLE = [
    pytest.param(kind, scenario, id=f"{kind}-{scenario}")
    for kind in KINDS
    for scenario in SCENARIOS
    if kind.fits(scenario)
]


@pytest.mark.parametrize(("kind", "scenario"), TABLE)
def test_same(kind: Kind, scenario: Scenario) -> None:
    """What meshlib's caller observes equals what grpc's does, in the same test on an equal server."""
    expected, seen = observe(kind, scenario, GRPC), observe(kind, scenario, MESHLIB)
    assert expected.end in scenario.ends, expected
    assert scenario.comparable(seen) == scenario.comparable(expected)
