"""Pick first load balancing: one host for all calls, with failover."""

from dataclasses import dataclass
from random import Random
from typing import final

from meshlib._core.balancing.builtin import BuiltinBalancer, BuiltinPicker
from meshlib._core.balancing.contracts import Host, Picker, PickInfo

__all__ = ["PickFirst"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PickFirst(BuiltinBalancer):
    """Pick first load balancing: the first host in the resolver's order; after its removal, the next one.

    gRPC's default ``pick_first``, except that all hosts are connected, so that a failover costs nothing. A host that
    returns does not regain its position. A retry goes to the first host its call has not tried. Ignores weights.
    """

    def picker(self, hosts: tuple[Host, ...], *, rng: Random) -> Picker:
        """Create a picker for these hosts."""
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
