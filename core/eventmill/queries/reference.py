"""Reference answers in plain Python: the defaults of every store, and the oracle of every test."""

from eventmill.queries.discovery import compute_event_names, count_event_names
from eventmill.queries.funnels import compute_funnel, count_funnel
from eventmill.queries.lookup import Scannable, find, pages
from eventmill.queries.retention import compute_retention, count_retention
from eventmill.queries.tally import compute_metrics, count_metrics, latest

__all__ = [
    "Scannable",
    "compute_event_names",
    "compute_funnel",
    "compute_metrics",
    "compute_retention",
    "count_event_names",
    "count_funnel",
    "count_metrics",
    "count_retention",
    "find",
    "latest",
    "pages",
]
