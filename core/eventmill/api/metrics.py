"""GET /metrics: counts and unique users."""

from functools import partial
from typing import Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel

from eventmill.api.errors import ErrorAnswer
from eventmill.api.questions import QueryLine
from eventmill.errors import InvalidQuery, StoreUnavailable
from eventmill.interfaces import Store
from eventmill.query import parse_metrics_query
from eventmill.times import parse_time

_PARAMETERS = ("event_name", "from", "to", "group_by")
_REQUIRED = _PARAMETERS[:3]


class GroupAnswer(BaseModel):
    """One group: a channel, an hour such as `2025-12-26 03:00:00`, or a day such as `2025-12-26`, in UTC."""

    group_value: str
    total_count: int
    unique_count: int


class MetricsAnswer(BaseModel):
    """Counts of events and of different users; `from` and `to` in unix seconds."""

    event_name: str
    # The names are Python keywords, so their aliases are what is seen.
    from_: float | int
    to: float | int
    total_count: int
    unique_count: int
    group_by: str | None
    groups: list[GroupAnswer]

    model_config = {"alias_generator": lambda name: name.rstrip("_"), "populate_by_name": True}


def create_router(store: Store | None, project: str, line: QueryLine) -> APIRouter:
    """The route, over this store; without one it answers 503."""
    router = APIRouter(tags=["metrics"])

    @router.get("/metrics", summary="Count events and unique users", responses=_RESPONSES)
    async def metrics(
        request: Request,
        event_name: str | None = Query(None, description="which events"),
        start: str | None = Query(None, alias="from", description="from when on: unix seconds or RFC 3339, inclusive"),
        end: str | None = Query(None, alias="to", description="until when: inclusive; whole seconds cover that second"),
        group_by: str | None = Query(None, description="`channel`, `hour` or `day` (UTC)"),
    ) -> MetricsAnswer:
        _check_names(request)
        query = parse_metrics_query(project, event_name or "", start or "", end or "", group_by)
        if store is None:
            raise StoreUnavailable("this process has no store")
        answer = await line.ask(request.receive, partial(store.metrics, query))
        return MetricsAnswer(
            event_name=query.event_name,
            from_=_seconds(start or ""),
            to=_seconds(end or ""),
            total_count=answer.total_count,
            unique_count=answer.unique_count,
            group_by=query.group_by,
            groups=[
                GroupAnswer(group_value=group.value, total_count=group.total_count, unique_count=group.unique_count)
                for group in answer.groups
            ],
        )

    return router


_RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "a parameter is missing or wrong, or the answer would be too large"},
    503: {"model": ErrorAnswer, "description": "the store is away, or too many questions are pending: try again"},
}


def _check_names(request: Request) -> None:
    names = request.query_params.keys()
    if not names:
        raise InvalidQuery(
            "event_name, from and to are required. This is not an endpoint for Prometheus: eventmill exposes no"
            " Prometheus metrics yet; the state of the service is at /health/ready",
            "event_name",
        )
    for name in names:
        if name not in _PARAMETERS:
            raise InvalidQuery(
                f"unknown parameter {name[:64]!r}: the parameters are {', '.join(_PARAMETERS)}", name[:64]
            )
    for name in _REQUIRED:
        if not request.query_params.get(name):
            raise InvalidQuery(f"{name} is required", name)


def _seconds(text: str) -> float | int:
    time_us = parse_time(text)
    return time_us / 1_000_000 if time_us % 1_000_000 else time_us // 1_000_000
