"""Endpoints from the environment: the name of the variable, and its allowed values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlib._core.discovery.environment import override, variable
from meshlib._core.discovery.steps import ResolveError


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("svc-a", "MESHLIB_SVC_A_ENDPOINTS"),
        ("svc-a.example.com", "MESHLIB_SVC_A_EXAMPLE_COM_ENDPOINTS"),
        ("svc-a.example.com.", "MESHLIB_SVC_A_EXAMPLE_COM_ENDPOINTS"),
        ("Svc_A", "MESHLIB_SVC_A_ENDPOINTS"),
        ("team/svc-ü", "MESHLIB_TEAM_SVC___ENDPOINTS"),
    ],
)
def test_the_name_of_the_variable(host: str, name: str) -> None:
    """Upper case; characters other than letters and digits become underscores."""
    assert variable(host) == name


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("127.0.0.1:5001,127.0.0.1:5002", ["127.0.0.1:5001", "127.0.0.1:5002"]),
        (" 127.0.0.1:5001 ,\t[::1]:5002 ,", ["127.0.0.1:5001", "[::1]:5002"]),
        ("web-1:80", ["web-1:80"]),
        ("", []),
        (" , ", []),
    ],
)
def test_the_value(value: str, expected: list[str]) -> None:
    """Entries with a port, between commas and spaces; a value without entries overrides nothing."""
    assert [str(entry) for entry in override({"MESHLIB_SVC_A_ENDPOINTS": value}, "svc-a")] == expected


def test_an_unset_variable() -> None:
    """Other variables do not count."""
    assert override({"MESHLIB_SVC_B_ENDPOINTS": "127.0.0.1:1"}, "svc-a") == ()


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("127.0.0.1", "'127.0.0.1' needs a port"),
        ("127.0.0.1:5001,svc:x", "port 'x' of 'svc:x' must be a number"),
        ("http://127.0.0.1:80", "more than one colon"),
    ],
)
def test_a_malformed_value(value: str, complaint: str) -> None:
    """The error names the variable and the entry."""
    with pytest.raises(ResolveError, match=f"environment variable MESHLIB_SVC_A_ENDPOINTS is malformed: .*{complaint}"):
        override({"MESHLIB_SVC_A_ENDPOINTS": value}, "svc-a")


@given(st.text())
def test_any_value_is_read_or_refused(value: str) -> None:
    """Any value is read or raises ResolveError."""
    try:
        entries = override({"MESHLIB_SVC_A_ENDPOINTS": value}, "svc-a")
    except ResolveError:
        return
    assert all(entry.port is not None for entry in entries)
