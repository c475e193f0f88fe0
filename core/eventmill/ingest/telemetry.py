"""The metrics of ingestion: events by project, and commits to the queue."""

from prometheus_client import CollectorRegistry, Counter, Histogram

MAX_PROJECTS = 100
OTHER = "other"  # the label of all further projects
COMMIT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class IngestTelemetry:
    """Counts what becomes of events before the queue. Without a registry nobody sees it.

    Attributes:
        confirmed, unconfirmed: events since the start, of all projects.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.confirmed = self.unconfirmed = 0
        self._accepted = Counter(
            "eventmill_events_accepted", "Events that the queue confirmed.", ["project"], registry=registry
        )
        self._refused = Counter(
            "eventmill_events_refused",
            "Events that were refused, by the code of the error. A body that cannot be split counts as one.",
            ["project", "reason"],
            registry=registry,
        )
        self.body_bytes = Counter(
            "eventmill_events_accepted_bytes", "Bytes of the accepted events, before compression.", registry=registry
        )
        self.commit_seconds = Histogram(
            "eventmill_publish_seconds",
            "Time of a commit to the queue, with its retries.",
            buckets=COMMIT_SECONDS,
            registry=registry,
        )
        self.frames = Counter("eventmill_published_frames", "Frames that were sent to the queue.", registry=registry)
        self.frame_bytes = Counter("eventmill_published_bytes", "Bytes of these frames.", registry=registry)
        self._failures = Counter(
            "eventmill_publish_failures",
            "Attempts to publish that failed, by the class of the error. Each commit has three attempts.",
            ["error"],
            registry=registry,
        )
        self._labels: set[str] = set()
        self._by_project: dict[str, Counter] = {}

    def accept(self, project: str, events: int, size: int) -> None:
        """Count events that the queue confirmed, and their bytes."""
        self.confirmed += events
        accepted = self._by_project.get(project)
        if accepted is None:
            label = self._label(project)
            accepted = self._accepted.labels(label)
            if label == project:
                self._by_project[project] = accepted
        accepted.inc(events)
        self.body_bytes.inc(size)

    def refuse(self, project: str, reason: str, events: int) -> None:
        """Count events that were refused."""
        self._refused.labels(self._label(project), reason).inc(events)

    def fail(self, error: Exception) -> None:
        """Count an attempt to publish that failed."""
        self._failures.labels(type(error).__name__).inc()

    def _label(self, project: str) -> str:
        """Return the label of a project. The first hundred have their own."""
        if project not in self._labels and len(self._labels) >= MAX_PROJECTS:
            return OTHER
        self._labels.add(project)
        return project
