"""The plugin author's API: everything a queue, a store or a page needs, and nothing else.

Read `Queue` and `Store` for what a backend promises, and `eventmill.testing` for the suites that check it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import SecretStr
    from pydantic_settings import SettingsConfigDict

    from eventmill import answers
    from eventmill.errors import (
        ConfigurationError,
        EventmillError,
        InvalidQuery,
        PartialFailure,
        PluginError,
        QueryTooLarge,
        QueueMisconfigured,
        QueueUnavailable,
        Refused,
        RejectedEvents,
        StoreMisconfigured,
        StoreUnavailable,
        Unknown,
    )
    from eventmill.event import (
        MAX_TIME_MS,
        MIN_TIME_MS,
        Event,
        EventBatch,
        Identity,
        Position,
        create_event,
        encode_line,
        forget,
    )
    from eventmill.hookspecs import HttpApp, QueueBackend, Services, StoreBackend, hookimpl
    from eventmill.interfaces import MIN_BODY_BYTES, Delivery, Depth, Queue, Store
    from eventmill.query import EventFilter, Group, GroupBy, Metrics, MetricsQuery
    from eventmill.settings import PluginSettings, Reach

__version__ = "0.1.0"

__all__ = [
    "MAX_TIME_MS",
    "MIN_BODY_BYTES",
    "MIN_TIME_MS",
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
    "QueueMisconfigured",
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
    "answers",
    "create_event",
    "encode_line",
    "forget",
    "hookimpl",
]

# Where the names above come from. They are imported when they are asked for: a command that needs none starts at once.
_MODULES = [f"eventmill.{name}" for name in ("errors", "event", "query", "interfaces", "hookspecs", "settings")]
_MODULES.append("pydantic")


def __getattr__(name: str) -> Any:
    if name == "answers":
        return import_module("eventmill.answers")
    if name in __all__:
        for module in _MODULES:
            found = import_module(module)
            if hasattr(found, name):
                return getattr(found, name)
    raise AttributeError(f"module 'eventmill' has no attribute {name!r}")
