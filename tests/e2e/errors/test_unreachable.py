"""A host that cannot be connected while others can: log, snapshot and command line give the reason."""

import json
import logging
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from tests.e2e.load import SHELLS, Load, Shell

from meshlib import __main__ as command
from meshlib.testing import Server, ServerTls

OURS, THEIRS = trustme.CA(), trustme.CA()
REFUSING = "127.0.0.1:1"
"""No server listens there. (A recently free port may be that of another test by now.)"""
TRUST = grpc.ssl_channel_credentials(OURS.cert_pem.bytes())


def served_as(*names: str, by: trustme.CA = OURS, **facts: Any) -> ServerTls:
    """A server's TLS settings."""
    certificate = by.issue_cert(*names)
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    return ServerTls(certificate.private_key_pem.bytes(), chain, **facts)


def targets(*addresses: str) -> str:
    """The target that lists the addresses."""
    return "static:///" + ",".join(addresses)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("refused", "Connection refused"),
        ("ca", "CERTIFICATE_VERIFY_FAILED"),
        ("name", "Hostname Verification Check failed"),
    ],
)
@pytest.mark.parametrize("shell", SHELLS)
def test_a_host_that_cannot_be_connected_is_told_with_the_reason(
    shell: Shell, fault: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Calls go to the other host meanwhile, and none fails."""
    tls = {
        "refused": served_as("127.0.0.1"),
        "ca": served_as("127.0.0.1", by=THEIRS),
        "name": served_as("svc-b.mesh.test"),
    }[fault]
    with Server(tls=served_as("127.0.0.1")) as good, Server(tls=tls) as other:
        bad = REFUSING if fault == "refused" else other.address
        options: dict[str, Any] = {"credentials": TRUST}
        with (
            caplog.at_level(logging.WARNING, "meshlib"),
            Load(targets(good.address, bad), shell=shell, callers=1, **options) as load,
        ):
            load.wait_for_calls(1)
            load.wait_until(lambda: any(host.last_error for host in load.channel.mesh.snapshot().hosts))
            load.wait_until(lambda: any("failed to connect" in text for text in caplog.messages))
            hosts = {host.address: host for host in load.channel.mesh.snapshot().hosts}
        assert load.failed == []
        assert (hosts[good.address].last_error, hosts[good.address].state) == ("", "READY")
        assert reason in hosts[bad].last_error
        assert hosts[bad].state == "TRANSIENT_FAILURE"
        assert hosts[bad].state_since >= 1.0
        (line,) = [text for text in caplog.messages if "failed to connect" in text]
        assert line.startswith(f"{targets(good.address, bad)}: {bad} failed to connect: ready=1, hosts=2, reason=")
        assert reason in line


# --- the command line ---


def resolved(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit status and output of ``python -m meshlib resolve``."""
    status = command.main(["resolve", *arguments])
    return status, *capsys.readouterr()


def test_connect_dials_each_host(capsys: pytest.CaptureFixture[str]) -> None:
    """One unreachable host makes the command fail."""
    with Server() as good:
        status, told, _ = resolved("--connect", targets(good.address), capsys=capsys)
        assert status == 0
        assert f"  ok {good.address}  connected in " in told
        status, told, _ = resolved("--connect", targets(good.address, REFUSING), capsys=capsys)
        assert status == 1
        assert f"  ok {good.address}  connected in " in told
        assert f"  !! {REFUSING}  " in told
        assert "Connection refused" in told
        status, told, _ = resolved("--json", "--connect", targets(good.address, REFUSING), capsys=capsys)
        assert status == 1
        first, second = json.loads(told)["connections"]
        assert (first["address"], first["error"], second["address"]) == (good.address, None, REFUSING)
        assert "Connection refused" in second["error"]


def test_connect_speaks_tls(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The command takes an authority to trust, a client certificate, and an expected name."""
    files = {name: tmp_path / name for name in ("ca", "cert", "key")}
    mine = OURS.issue_cert("caller.mesh.test")
    files["ca"].write_bytes(OURS.cert_pem.bytes())
    files["cert"].write_bytes(mine.cert_chain_pems[0].bytes())
    files["key"].write_bytes(mine.private_key_pem.bytes())
    with Server(tls=served_as("svc-a.mesh.test", client_ca=OURS.cert_pem.bytes())) as server:
        arguments = ["--connect", "--secure", targets(server.address)]
        named = [*arguments, "--ca", str(files["ca"]), "--authority", "svc-a.mesh.test"]
        proved = [*named, "--cert", str(files["cert"]), "--key", str(files["key"])]
        assert resolved(*proved, capsys=capsys)[0] == 0
        for wrong, reason in (
            (arguments, "CERTIFICATE_VERIFY_FAILED"),
            ([*arguments, "--ca", str(files["ca"])], "Hostname Verification Check failed"),
        ):
            status, told, _ = resolved(*wrong, capsys=capsys)
            assert status == 1
            assert reason in told


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (["--ca", "x"], "--ca='x': needs --connect"),
        (["--authority", "x"], "--authority='x': needs --connect"),
        (["--connect", "--ca", "x"], "--ca='x': needs --secure"),
        (["--connect", "--secure", "--cert", "x"], "--cert='x': needs --key, and --key needs --cert"),
        (["--connect", "--secure", "--ca", "/nonexistent"], "--ca='/nonexistent': cannot be read: No such file"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    arguments: list[str], wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such options are rejected with the reason, before any lookup."""
    status, told, said = resolved(*arguments, "static:///127.0.0.1:1", capsys=capsys)
    assert (status, told) == (2, "")
    assert wrong in said
