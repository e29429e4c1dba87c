"""The settings of DNS, and the errors of invalid ones."""

import pytest

from meshlib._core.discovery.policy import DnsPolicy
from meshlib._core.errors import ConfigError


def test_name_servers_get_a_port() -> None:
    """The default port is 53; a list equals a tuple; equal policies are equal."""
    policy = DnsPolicy(nameservers=["10.0.0.2", "127.0.0.1:8600", "::1", "consul"])  # type: ignore[arg-type]
    assert policy.nameservers == ("10.0.0.2:53", "127.0.0.1:8600", "[::1]:53", "consul:53")
    assert policy == DnsPolicy(nameservers=("10.0.0.2:53", "127.0.0.1:8600", "[::1]:53", "consul:53"))


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("family", "ipv4", "known: all, auto, v4, v6"),
        ("nameservers", "10.0.0.2", "must be a list of addresses"),
        ("nameservers", None, "must be a list of addresses"),
        ("nameservers", [None], "must be a list of addresses"),
        ("nameservers", ["10.0.0.2:x"], "port 'x'"),
        ("query_timeout", 0, "seconds above 0"),
        ("timeout", -1, "seconds above 0"),
        ("timeout", float("nan"), "seconds above 0"),
        ("timeout", float("inf"), "seconds above 0"),
        ("min_ttl", True, "seconds above 0"),
        ("max_ttl", "30", "seconds above 0"),
        ("max_ttl", 0.5, "must not be below min_ttl=1.0"),
        ("allow_empty", 1, "must be True or False"),
    ],
)
def test_a_bad_value(field: str, value: object, complaint: str) -> None:
    """Rejected at construction, with the field, the value and the allowed form."""
    with pytest.raises(ConfigError, match=complaint) as caught:
        DnsPolicy(**{field: value})  # type: ignore[arg-type]
    assert caught.value.field == field
