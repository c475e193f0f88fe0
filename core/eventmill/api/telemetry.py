"""The metrics of HTTP requests."""

from prometheus_client import CollectorRegistry, Histogram

REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
DISCONNECTED = 499  # as nginx logs it: the client left before it had a response
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestTelemetry:
    """Counts requests, and measures their time."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._seconds = Histogram(
            "eventmill_http_request_seconds",
            "Time of a request, from its head to the end of its response; the count is the number of requests."
            " Status 499: the client left before it had a response.",
            ["route", "method", "status"],
            buckets=REQUEST_SECONDS,
            registry=registry,
        )
        self._known: dict[tuple[str, str, int], Histogram] = {}

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request. `route` must be one of a limited number of names."""
        known = self._known.get((route, method, status))
        if known is None:
            method_label = method if method in _METHODS else "other"
            known = self._seconds.labels(route, method_label, str(status))
            if method_label == method:
                self._known[route, method, status] = known
        known.observe(seconds)
