"""What the routes of questions share: their parameters, in requests and in OpenAPI."""

from collections.abc import Sequence
from typing import Any

from fastapi import Request

from eventmill.api.gate import needs
from eventmill.queries.buckets import UNITS
from eventmill.queries.parameters import COMMON, Parameters
from eventmill.queries.properties import METADATA, TAG, TEXT_FIELDS
from eventmill.queries.spans import DAY_SECONDS

_FIELDS = f"{', '.join(TEXT_FIELDS)}, {TAG} or {METADATA}PATH"
_REPEATABLE = ("event_name", "group_by", "has", "lacks")
_MEANINGS = {
    "event_name": "the name of the events; repeat it for several, leave it out for all",
    "from": "start: unix seconds, RFC 3339, a date, or a time before now such as -24h (m, h, d, w)",
    "to": "end, inclusive, in the same forms; whole seconds cover the whole second; default: now",
    "tz": "the IANA time zone of dates and of times in groups; default: UTC",
    "has": f"only events that have this property: {TAG} or {METADATA}PATH",
    "lacks": "only events that lack it",
    "group_by": f"{_FIELDS}, {', '.join(UNITS)}; repeat it for two",
    "measure": "count, users, or sum, avg, min, max, p50, p90, p95 or p99 of a property: sum:metadata.price",
    "precision": "exact (default), or approximate: unique users are at most a few percent wrong",
    "fill": "true: a group for every bucket of time, also without events",
    "compare": "previous: also the answer for the span of the same length before",
    "fresh": "true: the time until which all accepted events are stored",
    "sample": "the greatest number of events to read",
    "timestamp": "the time of one event, to look it up: unix seconds or RFC 3339",
    "limit": "the greatest number of items; for groups, the others are summed up in `other`",
    "cursor": "`next` of the former page",
    "format": "json (default), or ndjson or csv: all matching events as a stream",
}
_FILTERS = f"Filters are further parameters: {_FIELDS} with =, != or, for numbers in the metadata, <, <=, >, >=."


def declare(*names: str) -> dict[str, Any]:
    """Return the declaration of a route for read keys with the common parameters, filters, and these."""
    return needs("read") | {"parameters": [_declare(name) for name in (*COMMON, *names)]}


def describe(summary: str) -> str:
    """Return the description of a route with filters."""
    return f"{summary} {_FILTERS}"


def parameters_of(request: Request, names: Sequence[str], default_seconds: int = DAY_SECONDS) -> Parameters:
    """Return the parameters of a request. Raise InvalidQuery for those that are none."""
    return Parameters(request.query_params.multi_items(), (*COMMON, *names), default_seconds)


def _declare(name: str) -> dict[str, Any]:
    text: dict[str, Any] = {"type": "string"}
    schema = {"type": "array", "items": text} if name in _REPEATABLE else text
    return {"name": name, "in": "query", "required": False, "description": _MEANINGS[name], "schema": schema}
