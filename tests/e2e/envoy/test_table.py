"""The comparison finds an unlisted difference and an outdated row."""

import pytest
from tests.e2e.envoy.table import listed, unlisted

ROWS = {"attempts": ("1", "3")}


def row(*measured: str) -> str:
    """A row of the table with these measured values."""
    return "\n".join(["[[difference]]", 'topic = "which status counts"', *measured, ""])


def test_a_listed_difference_is_none() -> None:
    """Both sides equal the row."""
    assert unlisted({"code": "OK", "attempts": "1"}, {"code": "OK", "attempts": "3"}, ROWS) == []


@pytest.mark.parametrize(
    ("envoy", "meshlib", "told"),
    [
        ({"attempts": "1", "code": "OK"}, {"attempts": "3", "code": "UNAVAILABLE"}, "code: .* no row"),
        ({"attempts": "1", "code": "OK"}, {"attempts": "3"}, "code: .* no row"),
        ({"attempts": "3"}, {"attempts": "3"}, "attempts: both '3'; .* out of date"),
        ({"attempts": "1"}, {"attempts": "2"}, "attempts: Envoy '1', meshlib '2'; the table has 1 and 3"),
        ({"attempts": "3"}, {"attempts": "1"}, "attempts: Envoy '3', meshlib '1'; the table has 1 and 3"),
        ({}, {}, "attempts: both 'absent'; .* out of date"),
    ],
    ids=["unlisted", "absent on one side", "gone", "another value", "the other way round", "no longer told"],
)
def test_what_the_table_does_not_say_is_told(envoy: dict[str, str], meshlib: dict[str, str], told: str) -> None:
    """One sentence names the figure, both values and the problem."""
    with pytest.raises(AssertionError, match=told):
        assert unlisted(envoy, meshlib, ROWS) == []


def test_rows_are_read_by_case_and_figure() -> None:
    """Several rows may list figures of one case."""
    text = row("measured.silent.attempts = { envoy = '1', meshlib = '3' }")
    text += row("measured.silent.code = { envoy = 'UNAVAILABLE', meshlib = 'DEADLINE_EXCEEDED' }")
    assert listed(text + row()) == {"silent": {"attempts": ("1", "3"), "code": ("UNAVAILABLE", "DEADLINE_EXCEEDED")}}


@pytest.mark.parametrize("other", ["{ envoy = '1', meshlib = '3' }", "{ envoy = '2', meshlib = '4' }"])
def test_two_rows_cannot_explain_one_figure(other: str) -> None:
    """Two rows for one figure are an error: neither is known to be right."""
    text = row("measured.silent.attempts = { envoy = '1', meshlib = '3' }") + row(f"measured.silent.attempts = {other}")
    with pytest.raises(ValueError, match="two rows list 'attempts' of the case 'silent'"):
        listed(text)


def test_a_row_without_a_difference_is_refused() -> None:
    """A row with equal values is rejected."""
    with pytest.raises(ValueError, match="'attempts' of the case 'silent' does not differ"):
        listed(row("measured.silent.attempts = { envoy = '3', meshlib = '3' }"))
