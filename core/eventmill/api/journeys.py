"""POST /funnels and POST /retention: how users go from step to step, and whether they come back."""

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from eventmill.api.errors import document
from eventmill.api.gate import needs
from eventmill.errors import InvalidQuery
from eventmill.hookspecs import Services, principal_of
from eventmill.queries.buckets import Bucket
from eventmill.queries.filters import EventFilter
from eventmill.queries.funnels import MAX_STEPS, FunnelQuery, FunnelStep
from eventmill.queries.parameters import COMMON, MAX_VALUES, Parameters, check_event_name, parse_filters
from eventmill.queries.properties import parse_property
from eventmill.queries.retention import RetentionQuery
from eventmill.queries.spans import DAY_SECONDS, DEFAULT_DAYS_SECONDS, UNIT_SECONDS
from eventmill.queries.steps import Step

DEFAULT_WINDOW = "7d"
MAX_WINDOW_SECONDS = 366 * DAY_SECONDS
_WINDOW = re.compile(r"([0-9]{1,9})([mhdw]?)")

Time = str | int | float
Filters = list[str]


class StepBody(BaseModel):
    """Events: their names (one, several, or all), and filters such as `channel=web` or `metadata.price>=10`."""

    model_config = {"extra": "forbid", "strict": True}

    event_name: str | list[str] | None = None
    where: Filters = []


class SpanBody(BaseModel):
    """The span of a question, its time zone, and filters of all events."""

    model_config = {"extra": "forbid", "strict": True, "populate_by_name": True}

    from_: Time | None = Field(default=None, alias="from")
    to: Time | None = None
    tz: str | None = None
    where: Filters = []

    def parameters(self) -> Parameters:
        """Return span and time zone as the parameters of a query string."""
        given = (("from", self.from_), ("to", self.to), ("tz", self.tz))
        items = [(name, str(value)) for name, value in given if value is not None]
        return Parameters(items, COMMON, DEFAULT_DAYS_SECONDS)


class FunnelBody(SpanBody):
    """A funnel. `window` is a time such as 7d (m, h, d, w), or seconds."""

    steps: list[StepBody] = Field(description=f"2 to {MAX_STEPS} steps")
    window: str | int = DEFAULT_WINDOW
    group_by: str | None = None


class RetentionBody(SpanBody):
    """Retention: cohorts by their first start event, and the events that are a return; by default all events."""

    unit: str = Field(default="day", description="day, week or month")
    start: StepBody = StepBody()
    return_: StepBody = Field(default=StepBody(), alias="return")


class FunnelStepResponse(BaseModel):
    """A step: the users that reached it, their share of the first step and of the one before, and the median time."""

    users: int
    conversion: float | None
    step_conversion: float | None
    median_seconds: float | None


class FunnelGroupResponse(BaseModel):
    """The steps of one group."""

    group_value: str | None
    steps: list[FunnelStepResponse]


class FunnelResponse(BaseModel):
    """The steps of all users, and by group; `from` and `to` in unix seconds."""

    from_: float | int = Field(alias="from")
    to: float | int
    window_seconds: float
    group_by: str | None
    steps: list[FunnelStepResponse]
    groups: list[FunnelGroupResponse]


class PeriodResponse(BaseModel):
    """The users of a cohort that came back in a unit; `complete` if the whole unit lies in the span."""

    users: int
    complete: bool


class CohortResponse(BaseModel):
    """The users that started in a unit, and those that came back in the n-th unit after it."""

    cohort: str
    users: int
    periods: list[PeriodResponse]


class RetentionResponse(BaseModel):
    """A cohort for each unit of the span; `from` and `to` in unix seconds."""

    from_: float | int = Field(alias="from")
    to: float | int
    unit: str
    cohorts: list[CohortResponse]


def create_router(services: Services) -> APIRouter:
    """Return the routes POST /funnels and POST /retention."""
    router = APIRouter(tags=["metrics"])

    @router.post(
        "/funnels",
        summary="Count the users that go from step to step",
        response_model=FunnelResponse,
        responses=document(400, 503),
        openapi_extra=needs("read"),
    )
    async def funnels(request: Request, body: FunnelBody) -> dict[str, Any]:
        """Answer as docs/queries.md says, by default for the last 30 days."""
        query = _parse_funnel(principal_of(request.scope).project, body)
        answer = await services.query(lambda store: store.funnel(query), request.receive, query.span.project)
        groups = [{"group_value": group.value, "steps": _steps(group.steps)} for group in answer.groups]
        by = query.group_by.name if query.group_by else None
        return _echo(query.span) | {
            "window_seconds": query.window_ms / 1000,
            "group_by": by,
            "steps": _steps(answer.steps),
            "groups": groups,
        }

    @router.post(
        "/retention",
        summary="Count the users that come back",
        response_model=RetentionResponse,
        responses=document(400, 503),
        openapi_extra=needs("read"),
    )
    async def retention(request: Request, body: RetentionBody) -> dict[str, Any]:
        """Answer as docs/queries.md says, by default for the last 30 days."""
        query = _parse_retention(principal_of(request.scope).project, body)
        answer = await services.query(lambda store: store.retention(query), request.receive, query.span.project)
        cohorts = [
            {
                "cohort": cohort.label,
                "users": cohort.users,
                "periods": [{"users": period.users, "complete": period.is_complete} for period in cohort.periods],
            }
            for cohort in answer.cohorts
        ]
        return _echo(query.span) | {"unit": query.bucket.name, "cohorts": cohorts}

    return router


def _parse_funnel(project: str, body: FunnelBody) -> FunnelQuery:
    steps = tuple(_parse_step(step, f"steps[{number}]") for number, step in enumerate(body.steps))
    by = None if body.group_by is None else parse_property(body.group_by, "group_by")
    return FunnelQuery(_span(project, body), steps, _parse_window(body.window), by)


def _parse_retention(project: str, body: RetentionBody) -> RetentionQuery:
    bucket = Bucket(body.unit, body.parameters().tz)
    return RetentionQuery(
        _span(project, body), bucket, _parse_step(body.start, "start"), _parse_step(body.return_, "return")
    )


def _span(project: str, body: SpanBody) -> EventFilter:
    """Return the span, which ends now at the latest, so that no unit is complete before its end."""
    span = replace(body.parameters().filter(project), where=parse_filters(body.where))
    now_ms = time.time_ns() // 1_000_000
    return replace(span, end_ms=min(span.end_ms, now_ms + 1)) if span.start_ms <= now_ms else span


def _parse_step(step: StepBody, name: str) -> Step:
    names = (step.event_name,) if isinstance(step.event_name, str) else step.event_name
    if names is not None and not 1 <= len(names) <= MAX_VALUES:
        raise InvalidQuery(f"{name}: event_name is one name or 1 to {MAX_VALUES}; leave it out for all", name)
    try:
        for each in names or ():
            check_event_name(each)
        return Step(None if names is None else tuple(names), parse_filters(step.where))
    except InvalidQuery as error:
        raise InvalidQuery(f"{name}: {error.message}", name) from None


def _parse_window(window: str | int) -> int:
    match = _WINDOW.fullmatch(str(window))
    seconds = int(match[1]) * UNIT_SECONDS.get(match[2], 1) if match else 0
    if not 1 <= seconds <= MAX_WINDOW_SECONDS:
        raise InvalidQuery("window must be seconds or a time such as 30m, 12h, 7d or 4w, at most 366d", "window")
    return seconds * 1000


def _echo(span: EventFilter) -> dict[str, Any]:
    """Return the ends of the span in seconds, as integers if they are whole."""
    start, end = span.start_ms, span.end_ms - (1000 if span.end_ms % 1000 == 0 else 1)
    return {name: ms / 1000 if ms % 1000 else ms // 1000 for name, ms in (("from", start), ("to", end))}


def _steps(steps: Sequence[FunnelStep]) -> list[dict[str, Any]]:
    return [
        {
            "users": step.users,
            "conversion": _share(step.users, steps[0].users),
            "step_conversion": _share(step.users, steps[max(0, place - 1)].users),
            "median_seconds": None if step.median_ms is None else step.median_ms / 1000,
        }
        for place, step in enumerate(steps)
    ]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
