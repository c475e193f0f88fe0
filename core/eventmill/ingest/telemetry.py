"""The metrics of ingestion: events by project, and commits to the queue."""

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

from eventmill.durations import Durations

MAX_PROJECTS = 100
OTHER = "other"  # the label of all further projects
COMMIT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class IngestTelemetry:
    """Counts what becomes of events before the queue. Without a registry nobody sees it.

    What happens with every request is counted in plain numbers that become metrics when they are collected: a counter
    of prometheus_client takes several times as long.

    Attributes:
        unconfirmed: events since the start that the queue did not confirm.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.unconfirmed = 0
        self._accepted: dict[str, int] = {}
        self._accepted_bytes = self._frames = self._frame_bytes = 0
        self._commits = Durations(COMMIT_SECONDS)
        self._labels: set[str] = set()
        self._refused = Counter(
            "eventmill_events_refused",
            "Events that were refused, by the code of the error. A body that cannot be split counts as one.",
            ["project", "reason"],
            registry=registry,
        )
        self._failures = Counter(
            "eventmill_publish_failures",
            "Attempts to publish that failed, by the class of the error. Each commit has three attempts.",
            ["error"],
            registry=registry,
        )
        if registry is not None:
            registry.register(self)

    @property
    def confirmed(self) -> int:
        """The events since the start that the queue confirmed."""
        return sum(self._accepted.values())

    def accept(self, project: str, events: int, size: int) -> None:
        """Count events that the queue confirmed, and their bytes."""
        if project not in self._accepted:
            project = self._label(project)
            self._accepted.setdefault(project, 0)
        self._accepted[project] += events
        self._accepted_bytes += size

    def refuse(self, project: str, reason: str, events: int) -> None:
        """Count events that were refused."""
        self._refused.labels(self._label(project), reason).inc(events)

    def send(self, bodies: Sequence[bytes]) -> None:
        """Count frames that are sent to the queue."""
        self._frames += len(bodies)
        self._frame_bytes += sum(map(len, bodies))

    def commit(self, seconds: float) -> None:
        """Count a commit."""
        self._commits.add(seconds)

    def fail(self, error: Exception) -> None:
        """Count an attempt to publish that failed."""
        self._failures.labels(type(error).__name__).inc()

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of accepted events and of commits."""
        accepted = CounterMetricFamily(
            "eventmill_events_accepted", "Events that the queue confirmed.", labels=["project"]
        )
        for project, events in self._accepted.items():
            accepted.add_metric([project], events)
        size = CounterMetricFamily(
            "eventmill_events_accepted_bytes", "Bytes of these events, before compression.", self._accepted_bytes
        )
        seconds = HistogramMetricFamily("eventmill_publish_seconds", "Time of a commit to the queue, with its retries.")
        seconds.add_metric([], self._commits.buckets(), self._commits.sum)
        frames = CounterMetricFamily("eventmill_published_frames", "Frames that were sent to the queue.", self._frames)
        frame_bytes = CounterMetricFamily("eventmill_published_bytes", "Bytes of these frames.", self._frame_bytes)
        return [accepted, size, seconds, frames, frame_bytes]

    def _label(self, project: str) -> str:
        """Return the label of a project. The first hundred have their own."""
        if project not in self._labels and len(self._labels) >= MAX_PROJECTS:
            return OTHER
        self._labels.add(project)
        return project
