"""Test servers in their own processes, for kill -9, SIGSTOP and SIGTERM."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from meshlib.testing import journal
from meshlib.testing.addresses import reserve
from meshlib.testing.server import ServerTls

_POLL_SECONDS = 0.005
_DEATH_SECONDS = 10.0
"""Time limit for the kernel to end a killed process, on a loaded machine."""


class Child:
    """Child process that its owner starts, signals and always ends. Its output goes to ``log``.

    Its standard input is a pipe that closes when this process ends, however it ends.
    """

    def __init__(self, command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None) -> None:
        self.command = tuple(command)
        self.log = log
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether the process is alive; a paused one is."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the last start."""
        if self._process is None:
            raise RuntimeError(f"{self.command[0]} was never started")
        return self._process.pid

    def start(self) -> None:
        """Start the program without waiting until it is ready; does nothing if it is running."""
        if self.running:
            return
        self.kill()  # gives back what belongs to the last process
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, env=self._env
            )

    def wait_until(self, ready: Callable[[], bool], *, timeout: float = 10.0) -> None:
        """Wait until ``ready()`` is true.

        Raises:
            RuntimeError: The program ended by itself; the message has its last output.
            TimeoutError: It was not ready within ``timeout`` seconds and was killed; the same.
        """
        deadline = time.monotonic() + timeout
        while not ready():
            if not self.running:
                raise RuntimeError(f"{self.command[0]} ended with status {self._wait(0)}:\n{self._last_output()}")
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"{self.command[0]} was not ready within {timeout} s:\n{self._last_output()}")
            time.sleep(_POLL_SECONDS)

    def kill(self) -> None:
        """Send SIGKILL and wait for the end of the process. Idempotent."""
        if self._process is not None:
            self._process.kill()
            self._wait(_DEATH_SECONDS)

    def terminate(self, timeout: float = 10.0) -> int:
        """Send SIGTERM and wait for the end of the process.

        Returns:
            Its exit status.

        Raises:
            TimeoutError: It still ran after ``timeout`` seconds and was killed.
        """
        if self._process is None:
            raise RuntimeError(f"{self.command[0]} was never started")
        self._process.terminate()
        return self._wait(timeout)

    def pause(self) -> None:
        """Send SIGSTOP: connections stay open and nothing answers; returns when all its threads have stopped."""
        os.kill(self.pid, signal.SIGSTOP)
        self.wait_until(lambda: os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None)

    def resume(self) -> None:
        """Send SIGCONT: it continues where it was paused."""
        os.kill(self.pid, signal.SIGCONT)

    def _wait(self, timeout: float) -> int:
        assert self._process is not None
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TimeoutError(f"{self.command[0]} had to be killed, {timeout} s after it was asked to stop") from None
        if self._process.stdin is not None:
            self._process.stdin.close()
        return status

    def _last_output(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]


class ProcessServer:
    """Echo server in its own process, running from its construction; it keeps its port until ``close``.

    The requests that its handlers began and ended are read from a file, so they survive the process.

    Args:
        address: ``IP:port`` or ``[IPv6]:port``; port 0 is any free one.
        name: Initial metadata ``meshlib-server`` of its responses; default: the address.
        grace: Seconds that ``terminate`` gives to running calls.
        tls: TLS certificates; default: plaintext.
        workers: Maximum concurrent handlers.

    Raises:
        OSError: The address is taken or not of this machine.
        RuntimeError: The process ended by itself; the message has its output.
        TimeoutError: It did not listen within 10 s.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:0",
        *,
        name: str | None = None,
        grace: float = 5.0,
        tls: ServerTls | None = None,
        workers: int = 64,
    ) -> None:
        self._reservation = reserve(address)
        self._directory = TemporaryDirectory(prefix="meshlib-server-")  # readable by this user alone
        directory = Path(self._directory.name)
        self._journal = directory / "journal"
        self._grace = grace
        self.address = self._reservation.address
        """Address such as ``127.0.0.1:41234``, the same after a restart."""
        self.port = self._reservation.port
        self.name = name or self.address
        host, _, port = self.address.rpartition(":")
        command = [sys.executable, "-m", "meshlib.testing.servers", "--until-eof", f"--host={host}", f"--port={port}"]
        command += [f"--name={self.name}", f"--grace={grace}", f"--workers={workers}", f"--journal={self._journal}"]
        if tls is not None:
            for option in ("private_key", "certificate_chain", "client_ca"):
                pem: bytes | None = getattr(tls, option)
                if pem is not None:
                    (directory / option).write_bytes(pem)
                    command.append(f"--{option.replace('_', '-')}={directory / option}")
        # The child imports what this process would, wherever that was found.
        self._child = Child(command, log=directory / "log", env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The process id of the last start."""
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether the process is alive; a paused one is."""
        return self._child.running

    def start(self) -> None:
        """Start a process on the same address and wait until it listens; does nothing if one is running."""
        self._child.start()
        self._child.wait_until(lambda: b"ready " in self._child.log.read_bytes())

    def kill(self) -> frozenset[str]:
        """End the process by SIGKILL.

        Returns:
            The request ids whose handlers had begun and whose calls had not ended.
        """
        self._child.kill()
        return self.unfinished

    def terminate(self) -> frozenset[str]:
        """End the process by SIGTERM: it rejects new calls and gives running ones ``grace`` seconds.

        Returns:
            The request ids whose calls did not end in time.
        """
        self._child.terminate(self._grace + 10.0)
        return self.unfinished

    def pause(self) -> None:
        """Freeze the process by SIGSTOP: connections stay open, the kernel accepts new ones, nothing answers."""
        self._child.pause()

    def resume(self) -> None:
        """Resume the process by SIGCONT."""
        self._child.resume()

    def close(self) -> None:
        """Kill the process, release the port and remove the files; idempotent."""
        self._child.kill()
        self._reservation.release()
        self._directory.cleanup()

    @property
    def executions(self) -> Counter[str]:
        """Number of handler starts by request metadata ``meshlib-request-id``, over all restarts."""
        return journal.executions(self._journal)

    @property
    def unfinished(self) -> frozenset[str]:
        """Request ids of the last process whose handlers have begun and whose calls have not ended."""
        return journal.unfinished(self._journal, self.pid)

    def wait_until(self, condition: Callable[["ProcessServer"], bool], timeout: float = 5.0) -> None:
        """Wait until ``condition(self)`` is true: ``server.wait_until(lambda s: len(s.unfinished) >= 8)``.

        Raises:
            TimeoutError: It was not true within ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while not condition(self):
            if time.monotonic() > deadline:
                raise TimeoutError(f"condition not met within {timeout} s: {self!r}")
            time.sleep(_POLL_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = f"pid {self.pid}" if self.running else "ended"
        return f"<ProcessServer {self.name} {self.address} {state}>"
