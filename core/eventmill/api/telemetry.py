"""The metrics of HTTP requests."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import HistogramMetricFamily

from eventmill.durations import Durations

REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
DISCONNECTED = 499  # as nginx logs it: the client left before it had a response
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestTelemetry:
    """Counts requests, and measures their time. Without a registry nobody sees it."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._times: dict[tuple[str, str, int], Durations] = {}
        if registry is not None:
            registry.register(self)

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request. `route` must be one of a limited number of names."""
        times = self._times.get((route, method, status))
        if times is None:
            method = method if method in _METHODS else "other"
            times = self._times.setdefault((route, method, status), Durations(REQUEST_SECONDS))
        times.add(seconds)

    def collect(self) -> Iterable[Metric]:
        """Return the metric."""
        histogram = HistogramMetricFamily(
            "eventmill_http_request_seconds",
            "Time of a request, from its head to the end of its response; the count is the number of requests."
            " Status 499: the client left before it had a response.",
            labels=["route", "method", "status"],
        )
        for (route, method, status), times in self._times.items():
            histogram.add_metric([route, method, str(status)], times.buckets(), times.sum)
        return [histogram]
