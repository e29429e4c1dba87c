"""The machine's name configuration: /etc/resolv.conf and /etc/hosts, read again when they change."""

import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Generic, TypeVar, final

from meshlib._core.discovery.names import parse_hosts
from meshlib._core.discovery.resolv_conf import DnsConfig, parse_resolv_conf

__all__ = ["SystemFiles"]

T = TypeVar("T")
Path = str | os.PathLike[str]


@final
class SystemFiles:
    """The two files. Reading takes microseconds, so it is done in place.

    Args:
        resolv_conf: resolv.conf(5).
        hosts: hosts(5).
        environ: holds ``LOCALDOMAIN`` and ``RES_OPTIONS``, if they are set.
    """

    def __init__(
        self,
        resolv_conf: Path = "/etc/resolv.conf",
        hosts: Path = "/etc/hosts",
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.hosts_path = os.fspath(hosts)
        self._dns = _Watched(resolv_conf, self._read_dns)
        self._hosts = _Watched(hosts, lambda path: parse_hosts(_text(path)))
        self._environ = environ

    def dns(self) -> DnsConfig:
        """Return name servers and search domains; an unreadable file counts as empty."""
        return self._dns.value((self._environ.get("LOCALDOMAIN"), self._environ.get("RES_OPTIONS")))

    def _read_dns(self, path: str) -> DnsConfig:
        return parse_resolv_conf(_text(path), hostname=socket.gethostname(), environ=self._environ)

    def hosts(self) -> Mapping[str, tuple[str, ...]]:
        """Return addresses by lower-case name; an unreadable file lists none."""
        return self._hosts.value()


class _Watched(Generic[T]):
    """The result of ``read`` for a file, cached until the file or another dependency changes."""

    def __init__(self, path: Path, read: Callable[[str], T]) -> None:
        self.path = os.fspath(path)
        self._read = read
        self._made: tuple[tuple[object, ...], T] | None = None

    def value(self, others: tuple[object, ...] = ()) -> T:
        stamp: tuple[object, ...] = others
        with suppress(OSError):
            found = os.stat(self.path)
            stamp = (*others, found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)
        if self._made is None or self._made[0] != stamp:
            self._made = (stamp, self._read(self.path))
        return self._made[1]


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            return file.read()
    except OSError:
        return ""
