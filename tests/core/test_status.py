"""Outcomes, and the names of status codes."""

import grpc
import pytest

from meshlib._core.status import CODES, OK, Outcome, local


def test_the_codes_are_grpcs() -> None:
    """Each code has grpc's number."""
    assert [code.name for code in sorted(grpc.StatusCode, key=lambda code: code.value[0])] == list(CODES)
    assert [code.value[0] for code in sorted(grpc.StatusCode, key=lambda code: code.value[0])] == [*range(len(CODES))]


def test_sent_unless_proved_otherwise() -> None:
    """An attempt counts as sent unless proved unsent; refused implies unsent."""
    assert Outcome("UNAVAILABLE").sent
    assert not Outcome("UNAVAILABLE", sent=False).sent
    assert not Outcome("UNAVAILABLE", refused=True).sent


def test_local() -> None:
    """Decided in this process, before anything was sent."""
    outcome = local("UNAVAILABLE", "no endpoints")
    assert (outcome.code, outcome.details, outcome.local, outcome.sent) == ("UNAVAILABLE", "no endpoints", True, False)


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        (OK, "<Outcome OK>"),
        (Outcome("NOT_FOUND", "no such key"), "<Outcome NOT_FOUND 'no such key'>"),
        (Outcome("UNAVAILABLE", refused=True), "<Outcome UNAVAILABLE refused unsent>"),
        (local("CANCELLED", "closed"), "<Outcome CANCELLED 'closed' local unsent>"),
    ],
)
def test_repr(outcome: Outcome, text: str) -> None:
    """The repr is readable."""
    assert repr(outcome) == text
