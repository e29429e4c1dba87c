"""The two address families of a host: usable addresses, and the value of one answer without the other."""

import pytest

from meshlib._core.discovery.families import RETRY, FamilyAnswer, combined, grouped, of_family, patience
from meshlib._core.discovery.policy import Family

V4, V6 = (
    FamilyAnswer(code="NOERROR", addresses=("1.1.1.1",), ttl=9),
    FamilyAnswer(code="NOERROR", addresses=("::1",), ttl=7),
)
NONE, ABSENT, FAILED = (
    FamilyAnswer(code="NOERROR", ttl=3),
    FamilyAnswer(code="NXDOMAIN", ttl=2),
    FamilyAnswer(code=None),
)


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("auto", ("1.1.1.1", "2.2.2.2")),
        ("v4", ("1.1.1.1", "2.2.2.2")),
        ("v6", ("::1",)),
        ("all", ("::1", "1.1.1.1", "2.2.2.2")),
    ],
)
def test_families(family: Family, expected: tuple[str, ...]) -> None:
    """``auto`` is IPv4 if there is any."""
    assert of_family(["::1", "1.1.1.1", "2.2.2.2"], family) == expected
    assert of_family(["::1"], "auto") == ("::1",)


@pytest.mark.parametrize(
    ("addresses", "family", "pair", "expected"),
    [
        (("::1", "1.1.1.1"), "auto", True, (("1.1.1.1", "::1"), True)),
        (("::1", "1.1.1.1"), "all", True, (("1.1.1.1", "::1"), True)),
        (("::1", "1.1.1.1"), "v4", True, (("1.1.1.1",), False)),
        (("::1", "1.1.1.1"), "v6", True, (("::1",), False)),
        (("::1", "1.1.1.1"), "auto", False, (("1.1.1.1",), False)),
        (("1.1.1.1", "2.2.2.2", "::1"), "auto", True, (("1.1.1.1", "2.2.2.2"), False)),
        (("1.1.1.1", "2.2.2.2", "::1"), "all", True, (("1.1.1.1", "2.2.2.2", "::1"), False)),
        (("::1",), "auto", True, (("::1",), False)),
    ],
)
def test_one_host_with_two_addresses(
    addresses: tuple[str, ...], family: Family, pair: bool, expected: tuple[tuple[str, ...], bool]
) -> None:
    """Exactly one of each family, the IPv4 address first; several of one family cannot be paired."""
    assert grouped(addresses, family, pair=pair) == expected


@pytest.mark.parametrize(
    ("v4", "v6", "family", "known", "expected"),
    [
        (V4, None, "auto", (), (("1.1.1.1",), 9)),
        (V4, V6, "all", (), (("1.1.1.1", "::1"), 7)),
        (NONE, V6, "auto", (), (("::1",), 7)),
        (ABSENT, V6, "auto", (), (("::1",), 7)),
        (FAILED, V6, "auto", (), (("::1",), RETRY)),
        (FAILED, V6, "all", ("1.1.1.9", "::9"), (("1.1.1.9", "::1"), RETRY)),
        (V4, FAILED, "all", ("1.1.1.9", "::9"), (("1.1.1.1", "::9"), RETRY)),
        (V4, FAILED, "auto", (), (("1.1.1.1",), 9)),
        (NONE, NONE, "auto", (), ((), 3)),
        (ABSENT, FAILED, "auto", (), ((), 2)),
        (NONE, FAILED, "auto", (), None),
        (FAILED, NONE, "auto", (), None),
        (FAILED, FAILED, "all", ("1.1.1.9",), None),
        (FAILED, None, "auto", ("1.1.1.9",), None),
    ],
)
def test_two_answers_as_one(
    v4: FamilyAnswer,
    v6: FamilyAnswer | None,
    family: Family,
    known: tuple[str, ...],
    expected: tuple[object, float] | None,
) -> None:
    """If no server answers for one family, the other is used, and the last good addresses of the first are kept."""
    found = combined(v4, v6, family, known=known, skipped=False)
    assert (None if found is None else (found.addresses, found.ttl)) == expected


def test_a_family_that_was_not_asked_for_keeps_its_addresses() -> None:
    """AAAA queries that are never answered are not sent each time."""
    found = combined(V4, None, "all", known=("1.1.1.9", "::9"), skipped=True)
    assert found is not None
    assert found.addresses == ("1.1.1.1", "::9")


@pytest.mark.parametrize(
    ("v4", "v6", "family", "expected"),
    [
        (FAILED, None, "auto", None),
        (None, FAILED, "auto", None),
        (None, V6, "auto", 2.0),
        (None, NONE, "auto", None),
        (V4, None, "auto", 0.25),
        (V4, None, "all", 2.0),
        (ABSENT, None, "auto", 1.0),
        (NONE, None, "auto", None),
    ],
)
def test_how_long_the_other_family_is_waited_for(
    v4: FamilyAnswer | None, v6: FamilyAnswer | None, family: Family, expected: float | None
) -> None:
    """Briefly if the first suffices, otherwise to the deadline."""
    assert patience(v4, v6, family, query_timeout=1.0) == expected
