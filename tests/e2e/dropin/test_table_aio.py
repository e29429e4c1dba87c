"""The drop-in comparison for asyncio."""

import pytest
from tests.e2e.dropin.aio_calls import KINDS, Kind, observe
from tests.e2e.dropin.scenarios import SCENARIOS, Scenario
from tests.e2e.dropin.subjects import GRPC, MESHLIB

TABLE = [
    pytest.param(kind, scenario, id=f"{kind}-{scenario}")
    for kind in KINDS
    for scenario in SCENARIOS
    if kind.fits(scenario)
]


@pytest.mark.parametrize(("kind", "scenario"), TABLE)
async def test_same(kind: Kind, scenario: Scenario) -> None:
    """meshlib's caller observes the same as grpc.aio's, in the same test on an equal server."""
    expected, seen = await observe(kind, scenario, GRPC), await observe(kind, scenario, MESHLIB)
    assert expected.end in scenario.ends, expected
    assert scenario.comparable(seen) == scenario.comparable(expected)
