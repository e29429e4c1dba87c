"""Test server as a program: ``python -m meshlib.testing.servers --port 50051`` echoes until SIGTERM.

``ProcessServer`` runs it and nothing imports it; ``Server`` and ``servers`` are in ``meshlib.testing``.
"""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from meshlib.testing.server import Server, ServerTls


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the echo service until SIGTERM or SIGINT, then stop gracefully: the command line."""
    parser = argparse.ArgumentParser(prog="python -m meshlib.testing.servers", description=main.__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="an IP address of this machine (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free port; the ready line on stdout shows it")
    parser.add_argument("--name", help="sent as initial metadata meshlib-server (default: the address)")
    parser.add_argument(
        "--grace", type=float, default=5.0, help="seconds for calls in flight at the end (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=64, help="concurrent handlers (default: %(default)s)")
    parser.add_argument("--journal", type=Path, help="a file to append begun and ended request ids to")
    parser.add_argument("--private-key", type=Path, help="PEM file; serve TLS")
    parser.add_argument("--certificate-chain", type=Path, help="PEM file; needed with --private-key")
    parser.add_argument("--client-ca", type=Path, help="PEM file; require client certificates signed by it")
    parser.add_argument(
        "--until-eof", action="store_true", help="also stop when standard input ends, as with its parent"
    )
    options = parser.parse_args(arguments)
    if (options.private_key is None) != (options.certificate_chain is None):
        parser.error("--private-key and --certificate-chain must be given together")

    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # before any thread exists, so that only sigwait() receives them
    if options.until_eof:
        threading.Thread(target=_stop_at_eof, daemon=True).start()
    with Server(
        f"{options.host}:{options.port}",
        name=options.name,
        tls=_tls(options.private_key, options.certificate_chain, options.client_ca),
        workers=options.workers,
        journal=options.journal,
    ) as server:
        print(f"ready {server.address}", flush=True)  # noqa: T201
        signal.sigwait(ends)
        server.stop(options.grace)
    return 0


def _tls(private_key: Path | None, certificate_chain: Path | None, client_ca: Path | None) -> ServerTls | None:
    if private_key is None or certificate_chain is None:
        return None
    return ServerTls(
        private_key.read_bytes(), certificate_chain.read_bytes(), client_ca.read_bytes() if client_ca else None
    )


def _stop_at_eof() -> None:
    while os.read(0, 4096):  # not sys.stdin: its lock, held by a daemon thread, aborts the interpreter on its way out
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
