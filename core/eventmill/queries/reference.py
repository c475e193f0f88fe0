"""Reference answers in plain Python: the defaults of every store, and the oracle of every test."""

from eventmill.queries.lookup import Scannable, find, pages
from eventmill.queries.metrics import compute_metrics, count_metrics

__all__ = ["Scannable", "compute_metrics", "count_metrics", "find", "pages"]
