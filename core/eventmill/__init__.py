"""The plugin author's API: everything a queue, a store or a page needs, and nothing else.

Read `Queue` and `Store` for what a backend promises, and `eventmill.testing` for the suites that check it.
"""

from pydantic import SecretStr
from pydantic_settings import SettingsConfigDict

from eventmill.errors import (
    ConfigurationError,
    EventmillError,
    InvalidQuery,
    PartialFailure,
    PluginError,
    QueryTooLarge,
    QueueUnavailable,
    Refused,
    RejectedEvents,
    StoreMisconfigured,
    StoreUnavailable,
    Unknown,
)
from eventmill.event import Event, EventBatch, Identity, Position
from eventmill.hookspecs import HttpApp, QueueBackend, Services, StoreBackend, hookimpl
from eventmill.interfaces import Delivery, Depth, Queue, Store
from eventmill.query import EventFilter, Group, GroupBy, Metrics, MetricsQuery
from eventmill.settings import PluginSettings, Reach

__version__ = "0.1.0"

__all__ = [
    "ConfigurationError",
    "Delivery",
    "Depth",
    "Event",
    "EventBatch",
    "EventFilter",
    "EventmillError",
    "Group",
    "GroupBy",
    "HttpApp",
    "Identity",
    "InvalidQuery",
    "Metrics",
    "MetricsQuery",
    "PartialFailure",
    "PluginError",
    "PluginSettings",
    "Position",
    "QueryTooLarge",
    "Queue",
    "QueueBackend",
    "QueueUnavailable",
    "Reach",
    "Refused",
    "RejectedEvents",
    "SecretStr",
    "Services",
    "SettingsConfigDict",
    "Store",
    "StoreBackend",
    "StoreMisconfigured",
    "StoreUnavailable",
    "Unknown",
    "hookimpl",
]
