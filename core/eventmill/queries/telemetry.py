"""The metrics of queries."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

QUERY_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class QueryTelemetry:
    """Counts the queries of this process."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.seconds = Histogram(
            "eventmill_query_seconds",
            "Time of a query, from its arrival to its end.",
            buckets=QUERY_SECONDS,
            registry=registry,
        )
        self._failed = Counter(
            "eventmill_queries_failed",
            "Queries without an answer, by the class of the error; Overloaded were refused.",
            ["error"],
            registry=registry,
        )
        self.pending = Gauge("eventmill_queries_pending", "Queries that wait or run.", registry=registry)
        self.running = Gauge("eventmill_queries_running", "Queries that the store answers now.", registry=registry)

    def fail(self, error: BaseException) -> None:
        """Count a query without an answer."""
        self._failed.labels(type(error).__name__).inc()
