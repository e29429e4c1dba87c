"""Metadata is valid if a grpc channel accepts it."""

from collections.abc import Iterator

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlib._adapt.metadata import valid
from meshlib.testing import Server, echo

KEYS = st.text("azAZ09-_. é\n", max_size=6).flatmap(lambda text: st.sampled_from([text, f"{text}-bin", f"-bin{text}"]))
VALUES = st.text(" ~azAZ09é\n\x7f\0", max_size=6)


@given(KEYS, VALUES)
def test_text_is_judged_as_the_same_bytes_are(key: str, value: str) -> None:
    """Ordinary text is checked directly; the rules are those for bytes."""
    if key.endswith("-bin"):
        assert valid(((key, value.encode()),)) == valid(((key.encode(), value.encode()),))
        with pytest.raises(TypeError, match="expected bytes"):
            valid(((key, value),))
    else:
        assert valid(((key, value),)) == valid(((key.encode(), value.encode()),))


@pytest.fixture
def channel() -> Iterator[grpc.Channel]:
    """grpc's own channel, with a server."""
    own = [("grpc.use_local_subchannel_pool", 1)]
    with Server() as server, grpc.insecure_channel(f"ipv4:{server.address}", own) as made:
        yield made


@pytest.mark.parametrize(
    "item",
    [
        ("key", "value"),
        ("key", ""),
        ("key", " ~"),
        ("a-b_c.0", "x"),
        ("key", "a\nb"),
        ("key", "value\n"),
        ("key\n", "value"),
        ("key", "\x7f"),
        ("key", "é"),
        ("Key", "value"),
        ("k ey", "value"),
        ("é", "value"),
        ("", "value"),
        ("key-bin", b"\0\xff"),
        ("Key-bin", b"x"),
        ("-bin", b"x"),
        (b"key", b"value"),
        (b"key", "value"),
        ("key", b"\0"),
    ],
    ids=repr,
)
def test_it_is_taken_if_grpc_takes_it(channel: grpc.Channel, item: tuple[str, str]) -> None:
    """grpc answers INTERNAL to invalid metadata."""
    future = channel.unary_unary(echo.UNARY).future(b"x", timeout=10, metadata=(item,))
    expected = grpc.StatusCode.OK if valid((item,)) else grpc.StatusCode.INTERNAL
    assert future.code() is expected


@pytest.mark.parametrize(
    ("item", "error", "text"),
    [
        (5, TypeError, "'int' object is not iterable"),
        (None, TypeError, "'NoneType' object is not iterable"),
        (("key",), ValueError, r"need more than 1 value to unpack"),
        (("key", "value", "more"), ValueError, r"too many values to unpack \(expected 2\)"),
        (("key", 1), TypeError, "Expected str, not <class 'int'>"),
        (("key-bin", "text"), TypeError, 'Binary metadata key="key-bin" expected bytes, got'),
    ],
)
def test_what_is_no_metadata_is_refused_in_grpcs_words(item: object, error: type[Exception], text: str) -> None:
    """Such a call never reaches grpc, which would never free it."""
    with pytest.raises(error, match=text):
        valid((item,))  # type: ignore[arg-type]
