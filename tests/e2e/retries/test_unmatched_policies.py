"""Keys of ``methods=`` that no method of the channel matches."""

import logging
from typing import Any

import pytest

import meshlib
from meshlib import MethodPolicy, aio
from meshlib.testing import echo

POLICIES = {
    echo.UNARY: MethodPolicy(timeout=5.0),
    "/meshlib.testing.Echo/Unarry": MethodPolicy(timeout=1.0),
    "/meshlib.testing.Echo/*": MethodPolicy(timeout=2.0),
    "/other.Service/Method": MethodPolicy(timeout=3.0),
    "*": MethodPolicy(timeout=4.0),
}
LINE = (
    "svc-a: methods['/meshlib.testing.Echo/Unarry'] matched no method of a stub or call; "
    "did you mean /meshlib.testing.Echo/Unary?"
)


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    """The logged lines about policies."""
    return [(record.levelno, record.getMessage()) for record in caplog.records if "methods[" in record.getMessage()]


def test_a_misspelt_method_is_reported_when_the_channel_closes(caplog: pytest.LogCaptureFixture) -> None:
    """A misspelt key is reported once, at INFO, and only if its service was used: it may be for another program."""
    caplog.set_level(logging.INFO, "meshlib")
    channel = meshlib.channel("svc-a", methods=POLICIES)
    for make in (channel.unary_unary, channel.unary_stream):
        make(echo.UNARY)
    assert lines(caplog) == []
    channel.close()
    channel.close()
    assert lines(caplog) == [(logging.INFO, LINE)]


async def test_a_misspelt_method_is_reported_in_asyncio(caplog: pytest.LogCaptureFixture) -> None:
    """The same in asyncio."""
    caplog.set_level(logging.INFO, "meshlib")
    channel = aio.channel("svc-a", methods=POLICIES)
    channel.unary_unary(echo.UNARY)
    await channel.close()
    await channel.close()
    assert lines(caplog) == [(logging.INFO, LINE)]


@pytest.mark.parametrize(
    ("named", "arguments"),
    [
        ((), {"methods": POLICIES}),
        ((echo.UNARY, "/meshlib.testing.Echo/Unarry"), {"methods": POLICIES}),
        (
            (echo.UNARY,),
            {
                "service_config": {
                    "methodConfig": [{"name": [{"service": echo.SERVICE, "method": "Unarry"}], "timeout": "1s"}]
                }
            },
        ),
    ],
)
def test_what_is_not_reported(
    caplog: pytest.LogCaptureFixture, named: tuple[str, ...], arguments: dict[str, Any]
) -> None:
    """No report for a channel that was not used, keys that match, and service configs, which many programs share."""
    caplog.set_level(logging.INFO, "meshlib")
    with meshlib.channel("svc-a", **arguments) as channel:
        for method in named:
            channel.unary_unary(method, request_serializer=[].append)  # an unhashable one
    assert lines(caplog) == []
