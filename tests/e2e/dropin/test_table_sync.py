"""The drop-in comparison: its caller observes the same for every event of a call, so one word may be swapped."""

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
    """meshlib's caller observes the same as grpc's, in the same test on an equal server."""
    expected, seen = observe(kind, scenario, GRPC), observe(kind, scenario, MESHLIB)
    assert expected.end in scenario.ends, expected
    assert scenario.comparable(seen) == scenario.comparable(expected)
