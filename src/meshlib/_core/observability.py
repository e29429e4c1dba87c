"""What a channel tells of its calls beyond the usual."""

from dataclasses import dataclass, fields

from meshlib._core.errors import ConfigError

__all__ = ["TelemetryPolicy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryPolicy:
    """What is told of calls beyond one span and one measurement for each; all of it costs, so all of it is off.

    Args:
        attempt_spans: a span for each attempt, below that of its call (gRFC A72); servers see it as their parent.
        attempt_metrics: a measurement for each attempt, ``grpc.client.attempt.duration`` (gRFC A66).
        host_addresses: measurements of attempts and the count of hosts carry the address of the host: as many series
            as there are hosts. And so do spans of calls that succeeded at once; others always do.
        access_log: a line for each call in the logger ``meshlib.access``, with Envoy's response flags.

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
