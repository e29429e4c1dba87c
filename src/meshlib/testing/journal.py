"""Journal of the requests that a server began and ended, in a file that survives ``kill -9``.

A line is ``pid start|end request-id``, appended by one ``write``: whole, in order, from any number of processes.
"""

import os
from collections import Counter
from pathlib import Path


class Journal:
    """Writer, in the server's process."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._pid = os.getpid()

    def record(self, what: str, request_id: str) -> None:
        """Append one line."""
        os.write(self._file, f"{self._pid} {what} {request_id}\n".encode())

    def close(self) -> None:
        """Close the file, without removing it."""
        os.close(self._file)


def executions(path: Path) -> Counter[str]:
    """Count the handler starts of each request, over all processes that wrote to ``path``."""
    return Counter(request_id for _, what, request_id in _lines(path) if what == "start")


def unfinished(path: Path, pid: int) -> frozenset[str]:
    """Return the requests that process ``pid`` began and has not ended, or had not when it died."""
    balance: Counter[str] = Counter()
    for writer, what, request_id in _lines(path):
        if writer == str(pid):
            balance[request_id] += 1 if what == "start" else -1
    return frozenset(+balance)


def _lines(path: Path) -> list[tuple[str, str, str]]:
    lines = []
    for line in path.read_text().splitlines() if path.exists() else ():
        pid, what, request_id = line.split(" ", 2)
        lines.append((pid, what, request_id))
    return lines
