"""A process whose only gRPC object is one meshlib channel: nothing else in it polls sockets."""

import subprocess
import sys

from meshlib.testing import ProcessServer

CLIENT = """
import sys, meshlib
from meshlib.testing import echo
with meshlib.channel(f"static:///{sys.argv[1]}") as channel:
    print(channel.unary_unary(echo.UNARY)(b"x", timeout=4))
"""


def test_a_process_of_one_channel_connects() -> None:
    """The only channel of a process has its first call answered before C-core's backup poller would help, in 5 s."""
    with ProcessServer() as server:
        run = subprocess.run(
            [sys.executable, "-c", CLIENT, server.address], capture_output=True, text=True, timeout=40, check=False
        )
        assert run.stdout == "b'x'\n", run.stderr
