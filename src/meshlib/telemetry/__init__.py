"""OpenTelemetry spans and metrics of calls, and the access log.

One CLIENT span covers a call with all its attempts; each attempt after the first is an event of the span. One histogram
is recorded per call. All other metrics are integers that instruments read at collection, except those that
:class:`~meshlib.TelemetryPolicy` turns on. Without a provider set by the application, nothing is recorded.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from meshlib._core.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.trace.export import SpanExporter

__all__ = ["setup"]


def setup(
    *,
    service_name: str,
    span_exporter: "SpanExporter | None" = None,
    metric_reader: "MetricReader | None" = None,
) -> Callable[[], None]:
    """Set global OpenTelemetry providers, for an application that has none.

    Args:
        service_name: ``service.name`` of the resource.
        span_exporter: receives spans in batches; None: no spans.
        metric_reader: receives metrics; None: no metrics.

    Returns:
        A function that flushes and shuts down both providers; call it when the application ends.

    Raises:
        ConfigError: neither is given.
    """
    if span_exporter is None and metric_reader is None:
        raise ConfigError("span_exporter", None, "pass a span_exporter, a metric_reader or both")
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": service_name})
    ends: list[Callable[[], object]] = []
    if span_exporter is not None:
        tracers = TracerProvider(resource=resource)
        tracers.add_span_processor(BatchSpanProcessor(span_exporter))
        trace.set_tracer_provider(tracers)
        ends.append(tracers.shutdown)
    if metric_reader is not None:
        meters = MeterProvider(resource=resource, metric_readers=[metric_reader])
        metrics.set_meter_provider(meters)
        ends.append(meters.shutdown)

    def shutdown() -> None:
        for end in ends:
            end()

    return shutdown
