"""Servers in processes of their own, for what only a process can suffer: kill -9, SIGSTOP, SIGTERM."""

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
from meshlib.testing.server import Tls

_POLL_SECONDS = 0.005
_DEATH_SECONDS = 10.0
"""How long the kernel may take to end a killed process, on a loaded machine."""


class Child:
    """A program that its owner starts, signals and always ends. What it prints goes to ``log``.

    Its standard input is a pipe that ends when this process does, however it ends.
    """

    def __init__(self, command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None) -> None:
        self.command = tuple(command)
        self.log = log
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether the process lives; a paused one does."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the last start."""
        if self._process is None:
            raise RuntimeError(f"{self.command[0]} was never started")
        return self._process.pid

    def start(self) -> None:
        """Start the program, which takes its time to be ready; nothing if it already runs."""
        if self.running:
            return
        self.kill()  # gives back what belongs to the last process
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, env=self._env
            )

    def wait_until(self, ready: Callable[[], bool], *, timeout: float = 10.0) -> None:
        """Wait until ``ready()``.

        Raises:
            RuntimeError: The program ended by itself; the message has its last output.
            TimeoutError: It was not ready in ``timeout`` seconds and was killed; the same.
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
        """SIGKILL: gone at once, whatever it was doing; returns when it is. Idempotent."""
        if self._process is not None:
            self._process.kill()
            self._wait(_DEATH_SECONDS)

    def terminate(self, timeout: float = 10.0) -> int:
        """SIGTERM: let it end in its own way.

        Returns:
            Its exit status.

        Raises:
            TimeoutError: It was still there after ``timeout`` seconds; it was killed.
        """
        if self._process is None:
            raise RuntimeError(f"{self.command[0]} was never started")
        self._process.terminate()
        return self._wait(timeout)

    def pause(self) -> None:
        """SIGSTOP: its connections stay open and nothing answers; returns when all its threads have stopped."""
        os.kill(self.pid, signal.SIGSTOP)
        self.wait_until(lambda: os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None)

    def resume(self) -> None:
        """SIGCONT: it goes on where it was paused."""
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
    """The echo service in a process of its own, running from its construction; it keeps its port until ``close``.

    Which requests its handlers began and ended is read from a file and so survives the process.

    Args:
        address: ``IP:port`` or ``[IPv6]:port``; port 0 is any free one.
        name: What responses carry as initial metadata ``meshlib-server``; the address if not given.
        grace: How many seconds ``terminate`` leaves to the calls inside.
        tls: Serve TLS; plaintext if not given.
        workers: How many handlers may run at once.

    Raises:
        OSError: The address is taken or not of this machine.
        RuntimeError: The process ended by itself; the message has its output.
        TimeoutError: It did not listen in 10 s.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:0",
        *,
        name: str | None = None,
        grace: float = 5.0,
        tls: Tls | None = None,
        workers: int = 64,
    ) -> None:
        self._reservation = reserve(address)
        self._directory = TemporaryDirectory(prefix="meshlib-server-")  # readable by this user alone
        directory = Path(self._directory.name)
        self._journal = directory / "journal"
        self._grace = grace
        self.address = self._reservation.address
        """``127.0.0.1:41234``: the same after a restart."""
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
        """Whether the process lives; a paused one does."""
        return self._child.running

    def start(self) -> None:
        """Start a process on the same address and wait until it listens; nothing if one runs."""
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
        """End the process by SIGTERM: it refuses new calls and leaves ``grace`` seconds to those inside.

        Returns:
            The request ids whose calls did not end in time.
        """
        self._child.terminate(self._grace + 10.0)
        return self.unfinished

    def pause(self) -> None:
        """Stop it by SIGSTOP: connections stay open, the kernel takes new ones, nothing answers."""
        self._child.pause()

    def resume(self) -> None:
        """Let it go on, by SIGCONT."""
        self._child.resume()

    def close(self) -> None:
        """Kill the process, give the port back and remove the files; idempotent."""
        self._child.kill()
        self._reservation.release()
        self._directory.cleanup()

    @property
    def executions(self) -> Counter[str]:
        """How often a handler began each request, by the request metadata ``meshlib-request-id``, over all restarts."""
        return journal.executions(self._journal)

    @property
    def unfinished(self) -> frozenset[str]:
        """The request ids of the last process whose handlers have begun and whose calls have not ended."""
        return journal.unfinished(self._journal, self.pid)

    def wait_until(self, condition: Callable[["ProcessServer"], bool], timeout: float = 5.0) -> None:
        """Wait until ``condition(self)``: ``server.wait_until(lambda s: len(s.unfinished) >= 8)``.

        Raises:
            TimeoutError: It did not come true in ``timeout`` seconds.
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
