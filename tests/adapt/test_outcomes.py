"""Outcomes from grpc's errors: the texts of C-core they depend on, checked against the real one."""

import grpc
import pytest

from meshlib._adapt.options import DEFAULTS
from meshlib._adapt.outcomes import failed, pushback
from meshlib.testing import Server, echo


def _error(target: str, **fault: object) -> grpc.RpcError:
    channel = grpc.insecure_channel(target, options=DEFAULTS)
    try:
        channel.unary_unary(echo.UNARY)(b"x", timeout=5)
    except grpc.RpcError as error:
        return error
    finally:
        channel.close()
    raise AssertionError("the call was to fail")


def test_a_refused_call_is_known_by_cores_own_words_and_the_address() -> None:
    """C-core says that no byte was sent, and names the address it could not connect to."""
    with Server() as server:
        server.stop()
        error = _error(f"ipv4:{server.address}")
        outcome = failed(error, f"ipv4:{server.address}", error.trailing_metadata())
    assert (outcome.code, outcome.sent, outcome.refused) == ("UNAVAILABLE", False, True)
    assert outcome.error is error


def test_the_same_words_from_a_server_prove_nothing() -> None:
    """A server that passes on such an error of its own was reached, so the call may have run."""
    words = "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.9.9.9:1: Connection refused"
    with Server() as server:
        server.fault(code="UNAVAILABLE", details=words)
        error = _error(f"ipv4:{server.address}")
        outcome = failed(error, f"ipv4:{server.address}", error.trailing_metadata())
    assert outcome.details == words
    assert (outcome.sent, outcome.refused) == (True, False)


def test_a_call_that_waited_on_a_connection_that_went_away_was_never_sent() -> None:
    """C-core says so of its own address; of another address the text is one passed on by a server."""

    class Error:
        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.UNAVAILABLE

        def details(self) -> str:
            return "ipv4:10.0.0.7:5005: subchannel lost all connections"

    assert failed(Error(), "ipv4:10.0.0.7:5005", ()).refused
    assert failed(Error(), "ipv4:10.0.0.8:5005", ()).sent


@pytest.mark.parametrize("named", ["ipv4:127.0.0.1:50051", "ipv4:10.127.0.0.1:5005", "xipv4:127.0.0.1:5005"])
def test_an_address_that_only_begins_like_its_own_proves_nothing(named: str) -> None:
    """Port 5005 is not port 50051, and a target without an address matches nothing."""

    class Error:
        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.UNAVAILABLE

        def details(self) -> str:
            return f"failed to connect to all addresses; last error: UNKNOWN: {named}: Connection refused"

    assert failed(Error(), "ipv4:127.0.0.1:5005", ()).sent
    assert failed(Error(), "", ()).sent


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("15", 0.015),
        ("2147483647", 2147483.647),
        (b"20", 0.02),
        ("-1", -1.0),
        ("2147483648", -1.0),
        ("015", -1.0),
        ("", -1.0),
        ("1.5", -1.0),
        ("soon", -1.0),
    ],
)
def test_pushback_is_read_as_its_grfc_says(value: str | bytes, seconds: float) -> None:
    """A number of milliseconds; a negative or malformed one forbids a retry."""
    assert pushback((("other", "1"), ("grpc-retry-pushback-ms", value))) == seconds


def test_no_pushback_is_none() -> None:
    """Without a pushback the policy is unchanged."""
    assert pushback(None) is None
    assert pushback((("other", "1"),)) is None


def test_the_pushback_of_a_real_server_arrives() -> None:
    """From the server's trailing metadata to the outcome."""
    with Server() as server:
        server.fault(code="UNAVAILABLE", trailing_metadata=(("grpc-retry-pushback-ms", "250"),))
        error = _error(f"ipv4:{server.address}")
        assert failed(error, f"ipv4:{server.address}", error.trailing_metadata()).pushback == 0.25
