"""Providers of telemetry for one test."""

from collections.abc import Iterator

import pytest
from tests.e2e.telemetry.recording import Metrics, Traces


@pytest.fixture
def traces() -> Traces:
    """A tracer provider of this test's own."""
    return Traces()


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    """A meter provider of this test's own."""
    made = Metrics()
    yield made
    made.provider.shutdown()
