"""Telemetry configuration."""

from dataclasses import dataclass, fields

from meshlib._core.errors import ConfigError

__all__ = ["TelemetryPolicy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryPolicy:
    """Telemetry beyond one span and one measurement for each call. All of it has a cost, so all of it is off.

    Args:
        attempt_spans: record a span for each attempt, as a child of the call's (gRFC A72) and parent of the server's.
        attempt_metrics: record ``grpc.client.attempt.duration`` for each attempt (gRFC A66).
        host_addresses: add the host's address to measurements of attempts and the count of hosts: one series for each
            host. Also to spans of calls that succeeded at once; other spans always have it.
        access_log: log a line for each call to the logger ``meshlib.access``, with Envoy's response flags.

    Raises:
        ConfigError: a field is neither True nor False.
    """

    attempt_spans: bool = False
    attempt_metrics: bool = False
    host_addresses: bool = False
    access_log: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, bool):
                raise ConfigError(field.name, value, "must be True or False")
