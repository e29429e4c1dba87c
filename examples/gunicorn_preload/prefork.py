"""Gunicorn's ``preload_app``, without gunicorn: import the application, fork workers, serve requests in each.

The channel is made once, before the forks, and works in every process.
"""

import os
import sys
from pathlib import Path

from meshlib.testing import ProcessServer

WORKERS = 3
REQUESTS = 20


def serve() -> int:
    """Serve the requests of a worker; return how many succeeded."""
    from app import app

    return sum(app({"PATH_INFO": f"/{n}"}, lambda *_: None)[0].startswith(b"/%d " % n) for n in range(REQUESTS))


def fork() -> int:
    """Start a worker; its exit status is the number of requests it served."""
    pid = os.fork()
    if pid:
        return pid
    served = 0
    try:
        served = serve()
    finally:
        os._exit(served)


def main() -> int:
    # Servers in processes of their own: a grpc server in this one would not survive the forks.
    with ProcessServer() as first, ProcessServer() as second:
        os.environ["MESHLIB_SVC_A_ENDPOINTS"] = f"{first.address},{second.address}"
        sys.path.insert(0, str(Path(__file__).parent))
        from app import channel  # the master preloads the application

        print(f"master: {channel.mesh.snapshot().state}, {len(channel.mesh.snapshot().hosts)} hosts", flush=True)
        served = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in [fork() for _ in range(WORKERS)]]
        print(f"workers served {served} of {REQUESTS} requests each", flush=True)
        print(f"master served {serve()}", flush=True)
        late = os.waitstatus_to_exitcode(os.waitpid(fork(), 0)[1])
        print(f"a worker forked after that served {late}", flush=True)
        channel.close()
    return 0 if [*served, late] == [REQUESTS] * (WORKERS + 1) else 1


if __name__ == "__main__":
    sys.exit(main())
