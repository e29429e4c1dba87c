"""One host for everything, another only when it is gone."""

from dataclasses import dataclass
from random import Random
from typing import final

from meshlib._core.balancing.builtin import BuiltinBalancer, BuiltinPicker
from meshlib._core.balancing.contracts import Host, Picker, PickInfo

__all__ = ["PickFirst"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PickFirst(BuiltinBalancer):
    """The first host in the resolver's order, for as long as it is there; then the first of those that are left.

    gRPC's default ``pick_first``, except that all hosts are connected, so that a failover costs nothing. One that comes
    back does not get its place back. A retry goes to the first host its call has not been to. Weights are ignored.
    """

    def picker(self, hosts: tuple[Host, ...], *, rng: Random) -> Picker:
        """A picker for this membership."""
        return _PickFirstPicker(hosts)


@final
class _PickFirstPicker(BuiltinPicker):
    reentrant = True

    def __init__(self, hosts: tuple[Host, ...]) -> None:
        self._hosts = hosts

    def pick(self, call: PickInfo, *, now: float) -> Host:
        tried = call.tried
        if tried:
            for host in self._hosts:
                if host not in tried:
                    return host
        return self._hosts[0]

    def adopt(self, previous: Picker, *, now: float) -> None:
        if isinstance(previous, _PickFirstPicker):
            first = previous._hosts[0]
            if first in self._hosts:
                self._hosts = (first, *(host for host in self._hosts if host is not first))
