"""The metrics of a process: its parts, its backends, the backlog, and how the figures of several processes add up."""

import asyncio
import logging
import math
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Gauge, Info, Metric, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

import eventmill
from eventmill.api.health import Health
from eventmill.api.status import Status, Watch
from eventmill.ingest.budget import Budget
from eventmill.interfaces import Queue, Store
from eventmill.runtime.connections import Connections

log = logging.getLogger(__name__)

_ADDED = ("counter", "histogram")
BACKLOG_SECONDS = 15.0  # each look at the backlog of an SQS queue costs calls


class SafeRegistry(CollectorRegistry):
    """A registry in which a collector that fails, such as that of a plugin, does not hide the metrics of the others."""

    def register(self, collector: Collector) -> None:
        super().register(_Guarded(collector))


@dataclass(frozen=True, eq=False)
class _Guarded(Collector):
    collector: Collector

    def describe(self) -> Iterable[Metric]:
        """Return the names, so that a second metric of the same name is refused."""
        describe = getattr(self.collector, "describe", None)
        return [] if describe is None else describe()

    def collect(self) -> Iterable[Metric]:
        try:
            return list(self.collector.collect())
        except Exception as error:
            log.warning("%s cannot collect its metrics: %r", type(self.collector).__name__, error)
            return []


def create_registry(queue: Queue, store: Store | None) -> CollectorRegistry:
    """Return a registry with the metrics of the process and of its backends."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # they would double the number of series
    registry = SafeRegistry()
    ProcessCollector(registry=registry)
    Info("eventmill_build", "The running version.", registry=registry).info({"version": eventmill.__version__})
    registry.register(queue)
    if store is not None:
        registry.register(store)
    return registry


def show_edge(connections: Connections, opening: Connections, budget: Budget, registry: CollectorRegistry) -> None:
    """Let the registry read the connections, open or not yet, and the memory of requests, with their limits."""
    registry.register(_Edge(connections, opening, budget))


@dataclass(frozen=True, slots=True)
class _Edge:
    """Shows what the edge of the API counts and limits."""

    connections: Connections
    opening: Connections
    budget: Budget

    def collect(self) -> Iterable[Metric]:
        connections, budget = self.connections, self.budget
        refused = connections.refused + self.opening.refused
        refusals = CounterMetricFamily(
            "eventmill_http_refusals", "Requests that were refused before they had a route.", labels=["status"]
        )
        for status, count in connections.refusals.items():
            refusals.add_metric([str(status)], count)
        return [
            refusals,
            GaugeMetricFamily("eventmill_http_connections", "Open connections.", len(connections)),
            GaugeMetricFamily("eventmill_http_connections_limit", "The limit of connections.", connections.limit),
            CounterMetricFamily("eventmill_http_connections_refused", "Connections beyond a limit.", refused),
            GaugeMetricFamily("eventmill_request_memory_bytes", "Memory of pending requests.", budget.used_bytes),
            GaugeMetricFamily("eventmill_request_memory_limit_bytes", "The limit of this memory.", budget.limit_bytes),
        ]


class Backlog:
    """The backlog, and whether queue and store work, as metrics that are looked up at most every 15 s.

    They have a registry of their own, since one worker of several looks them up.
    """

    def __init__(self, watch: Watch, health: Health) -> None:
        registry = self._registry = CollectorRegistry()
        self._watch = watch
        self._health = health
        self._looking = asyncio.Lock()
        self._looked_up_at = -float("inf")
        self._messages = Gauge(
            "eventmill_queue_messages",
            "Messages of up to 1,000 events in the queue: ready, in_flight (leased), dead (dead letters).",
            ["state"],
            registry=registry,
        )
        self._oldest_age = Gauge(
            "eventmill_queue_oldest_age_seconds", "Age of the oldest message, if the queue knows it.", registry=registry
        )
        self._drained = Gauge(
            "eventmill_queue_drained_messages_per_second",
            "Messages per second by which the backlog shrinks; negative while it grows.",
            registry=registry,
        )
        self._newest = Gauge(
            "eventmill_store_newest_event_timestamp_seconds",
            "Time of the newest event of the default project, in unix seconds, if the process has a store.",
            registry=registry,
        )
        self._up = Gauge("eventmill_up", "1 if the queue or the store works.", ["part"], registry=registry)
        self._show(Status())

    async def collect(self) -> Iterable[Metric]:
        """Return the metrics, looked up again if the last look is too old. A figure that is unknown is NaN."""
        async with self._looking:
            if time.monotonic() - self._looked_up_at > BACKLOG_SECONDS:
                status, readiness = await asyncio.gather(self._watch.status(), self._health.readiness())
                self._show(status)
                self._up.labels("queue").set(readiness.queue.status == "ok")
                if readiness.store is not None:
                    self._up.labels("store").set(readiness.store.status == "ok")
                self._looked_up_at = time.monotonic()
        return self._registry.collect()

    def _show(self, status: Status) -> None:
        for state in ("ready", "in_flight", "dead"):
            self._messages.labels(state).set(_known(getattr(status, state)))
        self._oldest_age.set(_known(status.oldest_age_seconds))
        self._drained.set(_known(status.drained_per_second))
        newest_ms = status.newest_event_ms
        self._newest.set(_known(None if newest_ms is None else newest_ms / 1000))


def _known(figure: float | None) -> float:
    return float("nan") if figure is None else figure


class Total:
    """The metrics of several workers as those of one process, whose counters never fall when a worker ends."""

    def __init__(self) -> None:
        self._latest: dict[str, list[Metric]] = {}
        self._ended: list[Metric] = []  # the counters of workers that ended

    def update(self, answers: Mapping[str, list[Metric]], running: Collection[str]) -> list[Metric]:
        """Take the answers of workers into account, by name, and return the total; a late worker keeps its figures."""
        self._latest |= answers
        for name in self._latest.keys() - set(running):
            counters = [metric for metric in self._latest.pop(name) if metric.type in _ADDED]
            self._ended = add_up([self._ended, counters])
        return add_up([self._ended, *self._latest.values()])


def add_up(processes: Sequence[Iterable[Metric]]) -> list[Metric]:
    """Return the metrics of several processes as those of one.

    Counters and histograms are added. A gauge is that of the process with the greatest value: the limits of a process
    are its own, so the fullest one matters.
    """
    added: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for metrics in processes:
        for metric in metrics:
            added.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
            own = values.setdefault(metric.name, {})
            for sample in metric.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                if key not in own:
                    own[key] = sample.value
                elif metric.type in _ADDED:
                    own[key] += sample.value
                elif math.isnan(own[key]) or sample.value > own[key]:
                    own[key] = sample.value
    for name, metric in added.items():
        metric.samples = [Sample(of, dict(labels), value) for (of, labels), value in values[name].items()]
    return list(added.values())
