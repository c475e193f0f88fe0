"""The plugin author's API: everything that a queue, a store or a page needs, and nothing else.

Read `eventmill.interfaces` for what a backend promises, `eventmill.hookspecs` for how a plugin offers it, and
`eventmill.testing` for the suites that check it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import SecretStr as SecretStr
    from pydantic_settings import SettingsConfigDict as SettingsConfigDict

    from eventmill.errors import *
    from eventmill.event import *
    from eventmill.fields import *
    from eventmill.hookspecs import *
    from eventmill.interfaces import *
    from eventmill.queries import reference as reference
    from eventmill.queries.dimensions import *
    from eventmill.queries.filters import *
    from eventmill.queries.metrics import *
    from eventmill.settings import *

__version__ = "0.1.0"

# Public names by module. They are imported on demand, so that every command starts fast.
_PUBLIC = {
    "eventmill.errors": """
        ConfigurationError EventmillError InvalidQuery InvalidRequest PartialFailure PluginError QueryTooLarge
        QueueMisconfigured QueueUnavailable Refused RejectedEvents StoreMisconfigured StoreUnavailable Unavailable
        Unknown
    """,
    "eventmill.event": """
        ALL_TIME EVENT_FIELDS FORGOTTEN MAX_TIME_MS MIN_TIME_MS Event EventBatch Identity Position create_event
        encode_line forget to_sent_form
    """,
    "eventmill.fields": "EventField",
    "eventmill.queries": "reference",
    "eventmill.queries.dimensions": "DIMENSIONS Dimension",
    "eventmill.queries.filters": "EventFilter",
    "eventmill.queries.metrics": "MAX_GROUPS Group Metrics MetricsQuery",
    "eventmill.interfaces": "MIN_BODY_BYTES Delivery Depth Queue Store",
    "eventmill.hookspecs": "AsgiApp HttpApp QueueBackend Services StoreBackend hookimpl",
    "eventmill.settings": "PluginSettings Reach",
    "pydantic": "SecretStr",
    "pydantic_settings": "SettingsConfigDict",
}
_MODULES = {name: module for module, names in _PUBLIC.items() for name in names.split()}


if not TYPE_CHECKING:  # otherwise type checkers would accept every name

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module 'eventmill' has no attribute {name!r}")
        if name == "reference":
            return import_module("eventmill.queries.reference")
        return getattr(import_module(_MODULES[name]), name)

    def __dir__() -> list[str]:
        """Return the public names."""
        return sorted(_MODULES)
