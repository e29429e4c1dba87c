"""Targets, and the machine whose files and environment they are resolved with."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest
from tests.e2e.discovery.asking import Ask, Asked, Files

from meshlib._control.shared import Resolutions
from meshlib._control.sources import source
from meshlib._control.system import SystemFiles
from meshlib._core.discovery.policy import DnsPolicy
from meshlib._core.target import parse_target


@pytest.fixture
def environ() -> dict[str, str]:
    """The environment of the program under test."""
    return {}


@pytest.fixture
def machine(tmp_path: Path) -> SystemFiles:
    """A machine without a name server of its own: queries to the default one are refused at once."""
    (tmp_path / "resolv.conf").write_text("search mesh.test\n")
    (tmp_path / "hosts").write_text("127.0.0.77 pinned\n")
    return SystemFiles(tmp_path / "resolv.conf", tmp_path / "hosts")


@pytest.fixture
async def ask(rng: Random, environ: dict[str, str], machine: SystemFiles) -> AsyncIterator[Ask]:
    """``ask(target, **policy)`` subscribes to a target; every subscription ends with the test."""
    table = Resolutions(clock=time.monotonic, rng=rng, environ=environ, files=machine)
    subscriptions: list[Asked] = []

    def subscribe(text: str, *, secure: bool = False, **policy: object) -> Asked:
        target = parse_target(text, secure=secure)
        subscriptions.append(Asked(table.get(source(target, DnsPolicy(**policy)))))  # type: ignore[arg-type]
        return subscriptions[-1]

    yield subscribe
    for subscription in subscriptions:
        subscription.leave()
    await table.aclose()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """The machine's two files, with the test's text."""

    def write(*, resolv_conf: str | bytes = "nameserver 127.0.0.1\n", hosts: str = "") -> SystemFiles:
        (tmp_path / "resolv.conf").write_bytes(resolv_conf.encode() if isinstance(resolv_conf, str) else resolv_conf)
        (tmp_path / "hosts").write_text(hosts)
        return SystemFiles(tmp_path / "resolv.conf", tmp_path / "hosts")

    return write
