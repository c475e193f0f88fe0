"""GET /metrics: counts of events, unique users, and figures of their metadata."""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from eventmill.api.errors import document
from eventmill.api.questions import declare, describe, parameters_of
from eventmill.errors import InvalidQuery, QueueUnavailable
from eventmill.hookspecs import Services, principal_of
from eventmill.interfaces import Queue, Store
from eventmill.queries.metrics import Group, Metrics, MetricsQuery, fill, parse_metrics_query, previous
from eventmill.queries.parameters import Parameters
from eventmill.queries.spans import Span

PARAMETERS = ("group_by", "measure", "precision", "fill", "compare", "fresh", "limit")
_DESCRIPTION = describe("Count events and their unique users; by default those of the last 24 hours.")

Values = str | list[str | None] | None
Names = str | list[str] | None


class GroupResponse(BaseModel):
    """One group. `group_value` is a text, such as a channel, the hour `2025-12-26 03:00:00` or the day `2025-12-26`.

    It is null for events without a value, and a list if there are two dimensions. `unique_count` is there if users are
    counted, and `value` if a property is measured: null if no event has a number.
    """

    group_value: Values
    total_count: int
    unique_count: int = 0
    value: float | None = None


class PreviousResponse(BaseModel):
    """The answer for the span before; the fields are those of the answer."""

    # `from` is a Python keyword: the alias without the underscore appears in the response.
    from_: float | int
    to: float | int
    total_count: int
    unique_count: int = 0
    value: float | None = None
    groups: list[GroupResponse]
    other: list[GroupResponse] = []

    model_config = {"alias_generator": lambda name: name.rstrip("_"), "populate_by_name": True}


class MetricsResponse(BaseModel):
    """Figures of events; `from` and `to` in unix seconds. Fields that were not asked for are absent.

    `unique_count` is absent if `measure` is neither absent nor `users`, and `value` is there if a property is measured.
    `other` sums up the groups beyond `limit`. All accepted events until `fresh_until` are stored; null if the queue
    cannot tell.
    """

    event_name: Names
    from_: float | int
    to: float | int
    tz: str = "UTC"
    measure: str = ""
    precision: str = "exact"
    total_count: int
    unique_count: int = 0
    value: float | None = None
    group_by: Names
    groups: list[GroupResponse]
    other: list[GroupResponse] = []
    previous: PreviousResponse | None = None
    fresh_until: float | None = None

    model_config = {"alias_generator": lambda name: name.rstrip("_"), "populate_by_name": True}


def create_router(services: Services) -> APIRouter:
    """Return the route GET /metrics."""
    router = APIRouter(tags=["metrics"])

    @router.get(
        "/metrics",
        summary="Count events and unique users",
        description=_DESCRIPTION,
        response_model=MetricsResponse,
        response_model_exclude_unset=True,
        responses=document(400, 503),
        openapi_extra=declare(*PARAMETERS),
    )
    async def metrics(request: Request) -> dict[str, Any]:
        parameters = parameters_of(request, PARAMETERS)
        project = principal_of(request.scope).project
        query = parse_metrics_query(project, parameters)
        queries = [query, previous(query)] if _is_compared(parameters) else [query]
        answers = await services.query(partial(_ask, queries), request.receive, project)
        if parameters.flag("fill"):
            answers = [fill(each, answer) for each, answer in zip(queries, answers, strict=True)]
        response = _echo(parameters, query) | _figures(query, answers[0])
        if len(answers) > 1:
            start, end = _previous_span(parameters.span).seconds
            response["previous"] = {"from": start, "to": end} | _figures(queries[1], answers[1])
        if parameters.flag("fresh"):
            response["fresh_until"] = await _fresh_until(services.queue)
        return response

    return router


async def _ask(queries: Sequence[MetricsQuery], store: Store) -> list[Metrics]:
    return [await store.metrics(query) for query in queries]


def _is_compared(parameters: Parameters) -> bool:
    compare = parameters.one("compare")
    if compare not in (None, "previous"):
        raise InvalidQuery(f"compare must be previous, not {compare[:64]!r}", "compare")
    return compare is not None


def _echo(parameters: Parameters, query: MetricsQuery) -> dict[str, Any]:
    """Return what was asked; what is new in this version only if it was given."""
    names, start_end = query.filter.event_names, parameters.span.seconds
    asked: dict[str, Any] = {"event_name": _single(list(names or ()))}
    asked |= dict(zip(("from", "to"), start_end, strict=True))
    asked |= {name: given for name in ("tz", "measure", "precision") if (given := parameters.one(name))}
    return asked | {"group_by": _single([by.name for by in query.group_by])}


def _figures(query: MetricsQuery, answer: Metrics) -> dict[str, Any]:
    figures = _counts(query, answer)
    figures["groups"] = [_group(query, group) for group in answer.groups]
    if query.limit is not None:
        figures["other"] = [_group(query, group) for group in answer.other]
    return figures


def _group(query: MetricsQuery, group: Group) -> dict[str, Any]:
    return {"group_value": _single(list(group.values))} | _counts(query, group)


def _counts(query: MetricsQuery, counted: Metrics | Group) -> dict[str, Any]:
    counts: dict[str, Any] = {"total_count": counted.total_count}
    if query.counts_users:
        counts["unique_count"] = counted.unique_count
    return counts | ({"value": counted.value} if query.number else {})


def _single(values: list[Any]) -> Any:
    """Return the only value, None without one, and a list for several."""
    return values if len(values) > 1 else next(iter(values), None)


def _previous_span(span: Span) -> Span:
    length_us = (span.end_ms - span.start_ms) * 1000
    return Span(max(0, span.start_us - length_us), max(0, span.end_us - length_us))


async def _fresh_until(queue: Queue) -> float | None:
    """Return the time of the oldest event that waits in the queue, in unix seconds; now if there is none."""
    now = time.time()
    try:
        depth = await queue.depth()
    except QueueUnavailable:
        return None
    if depth.ready == depth.in_flight == 0:
        return now
    return None if depth.oldest_age_seconds is None else now - depth.oldest_age_seconds
