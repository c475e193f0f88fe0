"""GET /metrics: counts of events and of unique users."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel

from eventmill.api.errors import document
from eventmill.api.gate import needs
from eventmill.errors import InvalidQuery
from eventmill.hookspecs import Services, principal_of
from eventmill.queries.dimensions import DIMENSIONS
from eventmill.queries.metrics import parse_metrics_query
from eventmill.times import parse_time

_PARAMETERS = ("event_name", "from", "to", "group_by")
_REQUIRED = _PARAMETERS[:3]


class GroupResponse(BaseModel):
    """One group: a channel, an hour such as `2025-12-26 03:00:00`, or a day such as `2025-12-26`, in UTC."""

    group_value: str
    total_count: int
    unique_count: int


class MetricsResponse(BaseModel):
    """Counts of events and of unique users; `from` and `to` in unix seconds."""

    event_name: str
    # `from` is a Python keyword: the alias without the underscore appears in the response.
    from_: float | int
    to: float | int
    total_count: int
    unique_count: int
    group_by: str | None
    groups: list[GroupResponse]

    model_config = {"alias_generator": lambda name: name.rstrip("_"), "populate_by_name": True}


def create_router(services: Services) -> APIRouter:
    """Return the route GET /metrics."""
    router = APIRouter(tags=["metrics"])

    @router.get(
        "/metrics",
        summary="Count events and unique users",
        responses=document(400, 503),
        openapi_extra=needs("read"),
        dependencies=[Depends(_check_names)],
    )
    async def metrics(
        request: Request,
        event_name: Annotated[str, Query(description="the name of the events", min_length=1)],
        start: Annotated[str, Query(alias="from", description="start: unix seconds or RFC 3339", min_length=1)],
        end: Annotated[
            str, Query(alias="to", description="end, inclusive; whole seconds cover the whole second", min_length=1)
        ],
        group_by: Annotated[str | None, Query(description=f"one of {', '.join(DIMENSIONS)}; times are UTC")] = None,
    ) -> MetricsResponse:
        project = principal_of(request.scope).project
        query = parse_metrics_query(project, event_name, start, end, group_by)
        answer = await services.query(lambda store: store.metrics(query), request.receive, project)
        return MetricsResponse(
            event_name=query.event_name,
            from_=_seconds(start),
            to=_seconds(end),
            total_count=answer.total_count,
            unique_count=answer.unique_count,
            group_by=query.group_by,
            groups=[
                GroupResponse(group_value=group.value, total_count=group.total_count, unique_count=group.unique_count)
                for group in answer.groups
            ],
        )

    return router


async def _check_names(request: Request) -> None:  # not in a thread, as FastAPI runs other functions
    names = request.query_params.keys()
    if not names:
        raise InvalidQuery(
            "event_name, from and to are required. Prometheus metrics are at the operations address"
            " (EVENTMILL_OPS_LISTEN), and the state of the service is at /health/ready",
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
