"""A WSGI application whose channel is made at import: with a preloading server, in the master before the fork."""

import os
from collections.abc import Callable, Iterable

import meshlib

channel = meshlib.channel("svc-a", timeout=5)  # no thread and no connection until the first call
echo = channel.unary_unary("/meshlib.testing.Echo/Unary")


def app(environ: dict[str, str], start_response: Callable[[str, list[tuple[str, str]]], object]) -> Iterable[bytes]:
    answer = echo(environ["PATH_INFO"].encode())
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%s answered to process %d\n" % (answer, os.getpid())]
