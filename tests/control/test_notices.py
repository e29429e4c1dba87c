"""Notices logged once when a channel is made."""

import logging

import pytest

from meshlib._control import notices
from meshlib._core.target import parse_target


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_told", set())


def _said(caplog: pytest.LogCaptureFixture, target: str, **arguments: object) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="meshlib"):
        options = arguments.pop("options", ())
        notices.announce(parse_target(target), options, **arguments)  # type: ignore[arg-type]
    return [record.getMessage() for record in caplog.records]


def test_plaintext_is_said_once_per_target(caplog: pytest.LogCaptureFixture) -> None:
    """The notice says how to encrypt; a local socket has none."""
    assert len(_said(caplog, "svc-a", secure=False, environ={})) == 1
    assert _said(caplog, "svc-a", secure=False, environ={}) == []
    assert len(_said(caplog, "svc-b", secure=False, environ={})) == 1
    assert _said(caplog, "svc-c", secure=True, environ={}) == []
    assert _said(caplog, "unix:/run/a.sock", secure=False, environ={}) == []


def test_a_proxy_that_is_not_used_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    """Unless the options decide."""
    environ = {"https_proxy": "http://proxy.example:3128"}
    decided = (("grpc.enable_http_proxy", 0),)
    assert _said(caplog, "svc-a", secure=True, environ=environ, options=decided) == []
    said = _said(caplog, "svc-a", secure=True, environ=environ)
    assert len(said) == 1
    assert "https_proxy" in said[0]
    assert "proxy.example" not in said[0]
    assert _said(caplog, "svc-b", secure=True, environ=environ) == []
