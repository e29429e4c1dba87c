"""What this machine's files say about names: /etc/resolv.conf and /etc/hosts, read again when they have changed."""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Generic, TypeVar, final

from meshlib._adapt.dns import DnsConfig, dns_config
from meshlib._core.discovery.names import parse_hosts
from meshlib._core.discovery.steps import ResolveError

__all__ = ["SystemFiles"]

T = TypeVar("T")
Path = str | os.PathLike[str]


@final
class SystemFiles:
    """The two files. Reading is a matter of microseconds, so it happens where it is needed.

    Args:
        resolv_conf: resolv.conf(5).
        hosts: hosts(5).
    """

    def __init__(self, resolv_conf: Path = "/etc/resolv.conf", hosts: Path = "/etc/hosts") -> None:
        self.hosts_path = os.fspath(hosts)
        self._dns = _Watched(resolv_conf, dns_config)
        self._hosts = _Watched(hosts, _read_hosts)

    def dns(self) -> DnsConfig:
        """Name servers and search domains.

        Raises:
            ResolveError: the file makes no sense.
        """
        try:
            return self._dns.value()
        except ValueError as error:
            raise ResolveError(f"{self._dns.path} is malformed: {error}") from error

    def hosts(self) -> Mapping[str, tuple[str, ...]]:
        """Addresses by lower-case name; a file that cannot be read lists none."""
        return self._hosts.value()


class _Watched(Generic[T]):
    """What ``read`` makes of a file, made again when the file is another one."""

    def __init__(self, path: Path, read: Callable[[str], T]) -> None:
        self.path = os.fspath(path)
        self._read = read
        self._made: tuple[tuple[int, ...], T] | None = None

    def value(self) -> T:
        stamp: tuple[int, ...] = ()
        with suppress(OSError):
            found = os.stat(self.path)
            stamp = (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)
        if self._made is None or self._made[0] != stamp:
            self._made = (stamp, self._read(self.path))
        return self._made[1]


def _read_hosts(path: str) -> dict[str, tuple[str, ...]]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return parse_hosts(file.read())
    except OSError:
        return {}
