"""Log lines of a channel, under the logger ``meshlib``."""

from typing import final

from meshlib._adapt.deferred_log import DeferredLogger
from meshlib._core.events import (
    ChannelEvent,
    EndpointsChanged,
    HostEjected,
    HostReturned,
    HostSpared,
    HostStateChanged,
    HostUnreachable,
    PanicChanged,
    PluginFailed,
    Refusing,
    ResolutionFailed,
)

__all__ = ["ChannelLog"]

_log = DeferredLogger("meshlib")


@final
class ChannelLog:
    """The log of one channel.

    INFO: changed endpoints, and hosts returned from ejection. DEBUG: state changes of connections, and outliers that
    are not ejected. WARNING: hosts that fail to connect, ejections, panic, and calls rejected by a limit. ERROR: the
    first failure of each plug-in. With a single host, ejection and panic have no effect: they are logged at DEBUG only.

    Args:
        target: of the channel, named in each line.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._told: set[tuple[str, str]] = set()

    def on_channel_event(self, event: ChannelEvent) -> None:
        """Log one event of the channel."""
        extra = {"meshlib.target": self._target}
        if isinstance(event, EndpointsChanged):
            _log.info("%s: endpoints changed: %s", self._target, _changes(event), extra=extra)
        elif isinstance(event, HostStateChanged):
            _log.debug(
                "%s: %s changed state: from=%s, to=%s",
                self._target,
                event.address,
                event.before,
                event.after,
                extra=extra,
            )
        elif isinstance(event, HostUnreachable):
            _log.warning(
                "%s: %s failed to connect: ready=%d, hosts=%d, reason=%s",
                self._target,
                event.address,
                event.ready,
                event.hosts,
                event.reason,
                extra=extra,
            )
        elif isinstance(event, PluginFailed):
            self._plugin(event)
        elif isinstance(event, HostEjected | HostReturned | PanicChanged) and event.alone:
            if isinstance(event, HostEjected):
                _log.debug(
                    "%s: %s is an outlier but stays in use as the only host: reason=%s",
                    self._target,
                    event.address,
                    event.why,
                    extra=extra,
                )
        elif isinstance(event, HostEjected):
            _log.warning(
                "%s: %s ejected: duration=%.1f s, reason=%s",
                self._target,
                event.address,
                event.seconds,
                event.why,
                extra=extra,
            )
        elif isinstance(event, HostSpared):
            _log.debug(
                "%s: %s is an outlier but was not ejected: reason=%s; %s",
                self._target,
                event.address,
                event.why,
                event.spared,
                extra=extra,
            )
        elif isinstance(event, HostReturned):
            _log.info("%s: %s returned from outlier ejection", self._target, event.address, extra=extra)
        elif isinstance(event, Refusing):
            _log.warning("%s: %s, rejected=%d", self._target, event.why, event.refused, extra=extra)
        elif isinstance(event, PanicChanged):
            self._panic(event)
        elif isinstance(event, ResolutionFailed):
            _log.debug(
                "%s: resolution failed: endpoints_kept=%d, reason=%s",
                self._target,
                event.kept,
                event.reason,
                extra=extra,
            )

    def _panic(self, event: PanicChanged) -> None:
        extra = {"meshlib.target": self._target}
        if event.priorities:
            tiers = ", ".join(map(str, event.priorities))
            _log.warning(
                "%s: panic mode started: priorities=%s, too few hosts are healthy, so ejected hosts are used too",
                self._target,
                tiers,
                extra=extra,
            )
        else:
            _log.info(
                "%s: panic mode ended: enough hosts are healthy, so ejected hosts are excluded again",
                self._target,
                extra=extra,
            )

    def _plugin(self, event: PluginFailed) -> None:
        key = (event.name, event.doing)
        if key in self._told:
            return
        self._told.add(key)
        error = event.error
        _log.error(
            "%s: plug-in %s failed: method=%s, error=%s, fallback=%s",
            self._target,
            event.name,
            event.doing,
            error,
            event.instead,
            exc_info=error if isinstance(error, BaseException) else None,
            extra={"meshlib.target": self._target},
        )


def _changes(event: EndpointsChanged) -> str:
    shown = [f"{sign}{address}" for sign, all_ in (("+", event.added), ("-", event.removed)) for address in all_]
    more = f" and {len(shown) - 8} more" if len(shown) > 8 else ""
    return ", ".join(shown[:8]) + more
