"""A process that is interrupted in a blocking call and continues; it prints what the call leaves."""

import json
import os
import signal
import threading

import meshlib
from meshlib.testing import Server, echo

signal.signal(signal.SIGINT, signal.default_int_handler)  # the shell that started this may have it ignored

with Server() as server, meshlib.channel(f"static:///{server.address}") as channel:
    server.fault(hang=True)

    def press() -> None:
        """Send Ctrl-C when the server has the call."""
        server.wait_until(lambda server: server.in_flight == 1)
        os.kill(os.getpid(), signal.SIGINT)

    finger = threading.Thread(target=press)
    finger.start()
    try:
        channel.unary_unary(echo.UNARY)(b"x", timeout=30)
    except KeyboardInterrupt:
        finger.join()
        server.wait_until(lambda server: server.in_flight == 0)
        places = [host.in_flight for host in channel.mesh.snapshot().hosts]
        told = {"in flight at the hosts": places, "calls": server.calls[echo.UNARY]}
        print(json.dumps(told))  # noqa: T201 - the test reads it
