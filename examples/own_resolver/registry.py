"""A registry with a long poll, like Consul's blocking queries.

``GET /svc-a?after=7`` returns when there is a version newer than 7, or after ten seconds.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class Registry:
    """Addresses by service, served over HTTP."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.version = 0
        self.services: dict[str, list[str]] = {}
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                self.answer(registry.wait(url.path.strip("/"), int(parse_qs(url.query).get("after", ["0"])[0])))

            def answer(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Log no requests."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def set(self, service: str, addresses: list[str]) -> None:
        with self.changed:
            self.version += 1
            self.services[service] = addresses
            self.changed.notify_all()

    def wait(self, service: str, after: int) -> bytes:
        with self.changed:
            self.changed.wait_for(lambda: self.version > after, timeout=10)
            return json.dumps({"version": self.version, "addresses": self.services.get(service, [])}).encode()

    def close(self) -> None:
        self.set("", [])  # wakes waiting requests
        self.server.shutdown()
        self.server.server_close()
