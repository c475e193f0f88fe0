"""GET /event-names and GET /properties: which events exist, and what they have."""

import asyncio
import logging
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from eventmill.api.errors import document
from eventmill.api.gate import needs
from eventmill.api.operators import Operator, name_of
from eventmill.api.questions import declare, describe, parameters_of
from eventmill.errors import InvalidQuery, StoreUnavailable
from eventmill.hookspecs import Services, principal_of
from eventmill.interfaces import Store
from eventmill.queries.discovery import MAX_NAMES, MAX_SAMPLE, MAX_TEXTS, EventName, PropertySummary
from eventmill.queries.filters import EventFilter
from eventmill.queries.lookup import PAGE_EVENTS
from eventmill.queries.properties import parse_property
from eventmill.queries.spans import DEFAULT_DAYS_SECONDS

log = logging.getLogger(__name__)

MAX_TAGS = 1_000


class EventNameResponse(BaseModel):
    """A name of events, and the times of its first and last event in the span, in unix seconds."""

    event_name: str
    total_count: int
    unique_count: int
    first_seen: float
    last_seen: float


class EventNamesResponse(BaseModel):
    """The names with the most events first."""

    event_names: list[EventNameResponse]


class ValueResponse(BaseModel):
    """A value, and how many of the sampled events have it."""

    value: str
    count: int


class PropertyResponse(BaseModel):
    """A path in the metadata: how many of the sampled events have it, its JSON types, and its most frequent texts."""

    name: str
    count: int
    types: dict[str, int]
    values: list[ValueResponse]


class PropertiesResponse(BaseModel):
    """What the newest matching events have. `sampled` is how many were read; `is_complete` if these are all.

    At most 1,000 tags and 1,000 paths are listed; of longer texts the first 256 characters. A sample with very many
    different texts ends early.
    """

    sampled: int
    is_complete: bool
    tags: list[ValueResponse]
    properties: list[PropertyResponse]


class PropertyBody(BaseModel):
    """The name of a property, such as metadata.price."""

    model_config = {"extra": "forbid", "strict": True}

    name: str


class MaterializedResponse(BaseModel):
    """Whether the store has storage of its own for the property now; false if it knows no such thing."""

    name: str
    materialized: bool


def create_router(services: Services) -> APIRouter:
    """Return the routes of discovery."""
    router = APIRouter(tags=["metrics"])

    @router.get(
        "/event-names",
        summary="List the names of events",
        description=describe("List the names of events of the last 30 days, with their counts."),
        response_model=EventNamesResponse,
        responses=document(400, 503),
        openapi_extra=declare("limit"),
    )
    async def event_names(request: Request) -> dict[str, Any]:
        parameters = parameters_of(request, ("limit",), DEFAULT_DAYS_SECONDS)
        wanted = parameters.filter(principal_of(request.scope).project)
        limit = parameters.number("limit", MAX_NAMES, MAX_NAMES)
        found = await services.query(lambda store: store.event_names(wanted, limit), request.receive, wanted.project)
        return {"event_names": list(map(_to_response, found))}

    @router.get(
        "/properties",
        summary="List the tags and the metadata of events",
        description=describe("List what a sample of the newest events of the last 30 days has."),
        response_model=PropertiesResponse,
        responses=document(400, 503),
        openapi_extra=declare("sample"),
    )
    async def properties(request: Request) -> dict[str, Any]:
        parameters = parameters_of(request, ("sample",), DEFAULT_DAYS_SECONDS)
        wanted = parameters.filter(principal_of(request.scope).project)
        sample = parameters.number("sample", MAX_SAMPLE, MAX_SAMPLE)
        return await services.query(lambda store: _sample(store, wanted, sample), request.receive, wanted.project)

    @router.post(
        "/properties/materialize",
        summary="Make questions about a property faster",
        response_model=MaterializedResponse,
        responses=document(400, 503),
        openapi_extra=needs("admin"),
    )
    async def materialize(operator: Operator, body: PropertyBody) -> dict[str, Any]:
        """Give a property of the metadata storage of its own, in all projects. No answer changes."""
        wanted = parse_property(body.name, "name")
        if not wanted.keys:
            raise InvalidQuery(
                f"name: {body.name[:64]} is fast already: name a property such as metadata.price", "name"
            )
        if services.store is None:
            raise StoreUnavailable("this process has no store")
        is_materialized = await services.store.materialize(wanted)
        log.info("materialized %s: %s", wanted.name, is_materialized, extra={"operator": name_of(operator)})
        return {"name": wanted.name, "materialized": is_materialized}

    return router


def _to_response(name: EventName) -> dict[str, Any]:
    return {
        "event_name": name.event_name,
        "total_count": name.total_count,
        "unique_count": name.unique_count,
        "first_seen": name.first_ms / 1000,
        "last_seen": name.last_ms / 1000,
    }


async def _sample(store: Store, wanted: EventFilter, sample: int) -> dict[str, Any]:
    """Return what up to `sample` of the newest events have."""
    summary, before = PropertySummary(), None
    while summary.events < sample and not summary.is_full:
        page = await store.scan(wanted, before, min(PAGE_EVENTS, sample - summary.events))
        if not page:
            break
        await asyncio.to_thread(summary.add, page)
        before = page[-1].position
    is_all = not summary.is_full and (before is None or not await store.scan(wanted, before, 1))
    paths = sorted(summary.paths.items(), key=lambda item: (-item[1].events, item[0]))
    return {
        "sampled": summary.events,
        "is_complete": is_all and summary.is_complete and len(summary.tags) <= MAX_TAGS,
        "tags": _values(summary.tags, MAX_TAGS),
        "properties": [
            {"name": name, "count": path.events, "types": path.types, "values": _values(path.texts, MAX_TEXTS)}
            for name, path in paths
        ],
    }


def _values(counts: Any, most: int) -> list[dict[str, Any]]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]
    return [{"value": value, "count": count} for value, count in ordered]
