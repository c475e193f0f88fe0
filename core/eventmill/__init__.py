"""The plugin author's API: everything that a queue, a store or a page needs, and nothing else.

Read `eventmill.interfaces` for what a backend promises, `eventmill.hookspecs` for how a plugin offers it, and
`eventmill.testing` for the suites that check it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import SecretStr as SecretStr
    from pydantic_settings import SettingsConfigDict as SettingsConfigDict

    from eventmill.errors import ClientDisconnected as ClientDisconnected
    from eventmill.errors import ConfigurationError as ConfigurationError
    from eventmill.errors import EventmillError as EventmillError
    from eventmill.errors import Forbidden as Forbidden
    from eventmill.errors import InvalidQuery as InvalidQuery
    from eventmill.errors import InvalidRequest as InvalidRequest
    from eventmill.errors import Overloaded as Overloaded
    from eventmill.errors import PartialFailure as PartialFailure
    from eventmill.errors import PluginError as PluginError
    from eventmill.errors import QueryTooLarge as QueryTooLarge
    from eventmill.errors import QueueMisconfigured as QueueMisconfigured
    from eventmill.errors import QueueUnavailable as QueueUnavailable
    from eventmill.errors import Refused as Refused
    from eventmill.errors import RejectedEvents as RejectedEvents
    from eventmill.errors import StoreMisconfigured as StoreMisconfigured
    from eventmill.errors import StoreUnavailable as StoreUnavailable
    from eventmill.errors import Unauthenticated as Unauthenticated
    from eventmill.errors import Unavailable as Unavailable
    from eventmill.errors import Unknown as Unknown
    from eventmill.event import ALL_TIME as ALL_TIME
    from eventmill.event import EVENT_FIELDS as EVENT_FIELDS
    from eventmill.event import FORGOTTEN as FORGOTTEN
    from eventmill.event import MAX_TIME_MS as MAX_TIME_MS
    from eventmill.event import MIN_TIME_MS as MIN_TIME_MS
    from eventmill.event import Event as Event
    from eventmill.event import EventBatch as EventBatch
    from eventmill.event import Identity as Identity
    from eventmill.event import Position as Position
    from eventmill.event import create_event as create_event
    from eventmill.event import encode_line as encode_line
    from eventmill.event import forget as forget
    from eventmill.event import to_sent_form as to_sent_form
    from eventmill.fields import EventField as EventField
    from eventmill.hookspecs import AsgiApp as AsgiApp
    from eventmill.hookspecs import HttpApp as HttpApp
    from eventmill.hookspecs import KeyScope as KeyScope
    from eventmill.hookspecs import Principal as Principal
    from eventmill.hookspecs import QueueBackend as QueueBackend
    from eventmill.hookspecs import RouteScope as RouteScope
    from eventmill.hookspecs import Services as Services
    from eventmill.hookspecs import StoreBackend as StoreBackend
    from eventmill.hookspecs import hookimpl as hookimpl
    from eventmill.hookspecs import principal_of as principal_of
    from eventmill.interfaces import MIN_BODY_BYTES as MIN_BODY_BYTES
    from eventmill.interfaces import Delivery as Delivery
    from eventmill.interfaces import Depth as Depth
    from eventmill.interfaces import Queue as Queue
    from eventmill.interfaces import Store as Store
    from eventmill.queries import reference as reference
    from eventmill.queries.buckets import DATES as DATES
    from eventmill.queries.buckets import UNITS as UNITS
    from eventmill.queries.buckets import Bucket as Bucket
    from eventmill.queries.conditions import COMPARISONS as COMPARISONS
    from eventmill.queries.conditions import Condition as Condition
    from eventmill.queries.conditions import Operator as Operator
    from eventmill.queries.discovery import EventName as EventName
    from eventmill.queries.discovery import order_names as order_names
    from eventmill.queries.filters import EventFilter as EventFilter
    from eventmill.queries.funnels import Funnel as Funnel
    from eventmill.queries.funnels import FunnelGroup as FunnelGroup
    from eventmill.queries.funnels import FunnelQuery as FunnelQuery
    from eventmill.queries.funnels import FunnelStep as FunnelStep
    from eventmill.queries.funnels import build_funnel as build_funnel
    from eventmill.queries.lookup import MAX_SECONDS as MAX_SECONDS
    from eventmill.queries.metrics import MAX_GROUPS as MAX_GROUPS
    from eventmill.queries.metrics import NUMERIC as NUMERIC
    from eventmill.queries.metrics import QUANTILES as QUANTILES
    from eventmill.queries.metrics import Dimension as Dimension
    from eventmill.queries.metrics import Group as Group
    from eventmill.queries.metrics import Measure as Measure
    from eventmill.queries.metrics import Metrics as Metrics
    from eventmill.queries.metrics import MetricsQuery as MetricsQuery
    from eventmill.queries.metrics import Row as Row
    from eventmill.queries.metrics import build_metrics as build_metrics
    from eventmill.queries.properties import ARRAY as ARRAY
    from eventmill.queries.properties import OBJECT as OBJECT
    from eventmill.queries.properties import TAG as TAG
    from eventmill.queries.properties import TEXT_FIELDS as TEXT_FIELDS
    from eventmill.queries.properties import Property as Property
    from eventmill.queries.properties import join_path as join_path
    from eventmill.queries.properties import parse_property as parse_property
    from eventmill.queries.retention import Cohort as Cohort
    from eventmill.queries.retention import Period as Period
    from eventmill.queries.retention import Retention as Retention
    from eventmill.queries.retention import RetentionQuery as RetentionQuery
    from eventmill.queries.retention import build_retention as build_retention
    from eventmill.queries.sql import SqlResult as SqlResult
    from eventmill.queries.steps import Step as Step
    from eventmill.settings import PluginSettings as PluginSettings
    from eventmill.settings import Reach as Reach
    from eventmill.times import describe_skew as describe_skew

__version__ = "0.1.0"

# The public names by module, for the runtime, which imports them on demand, so that every command starts fast. A test
# compares them with the imports above, which are for type checkers.
_PUBLIC = {
    "eventmill.errors": """
        ClientDisconnected ConfigurationError EventmillError Forbidden InvalidQuery InvalidRequest Overloaded
        PartialFailure PluginError QueryTooLarge QueueMisconfigured QueueUnavailable Refused RejectedEvents
        StoreMisconfigured StoreUnavailable Unauthenticated Unavailable Unknown
    """,
    "eventmill.event": """
        ALL_TIME EVENT_FIELDS Event EventBatch FORGOTTEN Identity MAX_TIME_MS MIN_TIME_MS Position
        create_event encode_line forget to_sent_form
    """,
    "eventmill.fields": "EventField",
    "eventmill.queries": "reference",
    "eventmill.queries.buckets": "Bucket DATES UNITS",
    "eventmill.queries.conditions": "COMPARISONS Condition Operator",
    "eventmill.queries.discovery": "EventName order_names",
    "eventmill.queries.filters": "EventFilter",
    "eventmill.queries.funnels": "Funnel FunnelGroup FunnelQuery FunnelStep build_funnel",
    "eventmill.queries.lookup": "MAX_SECONDS",
    "eventmill.queries.metrics": """
        Dimension Group MAX_GROUPS Measure Metrics MetricsQuery NUMERIC QUANTILES Row build_metrics
    """,
    "eventmill.queries.properties": "ARRAY OBJECT Property TAG TEXT_FIELDS join_path parse_property",
    "eventmill.queries.retention": "Cohort Period Retention RetentionQuery build_retention",
    "eventmill.queries.sql": "SqlResult",
    "eventmill.queries.steps": "Step",
    "eventmill.interfaces": "Delivery Depth MIN_BODY_BYTES Queue Store",
    "eventmill.hookspecs": """
        AsgiApp HttpApp KeyScope Principal QueueBackend RouteScope Services StoreBackend hookimpl principal_of
    """,
    "eventmill.settings": "PluginSettings Reach",
    "eventmill.times": "describe_skew",
    "pydantic": "SecretStr",
    "pydantic_settings": "SettingsConfigDict",
}
_MODULES = {name: module for module, names in _PUBLIC.items() for name in names.split()}


if not TYPE_CHECKING:  # otherwise type checkers would accept every name

    def __getattr__(name: str) -> Any:
        if name == "__all__":
            return sorted(_MODULES)
        if name not in _MODULES:
            raise AttributeError(f"module 'eventmill' has no attribute {name!r}")
        if name == "reference":
            return import_module("eventmill.queries.reference")
        return getattr(import_module(_MODULES[name]), name)

    def __dir__() -> list[str]:
        """Return the public names."""
        return sorted(_MODULES)
