"""eventmill funnel and eventmill retention: how users go from step to step, and whether they come back."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from eventmill.api.journeys import FunnelResponse, RetentionResponse
from eventmill.cli.connection import Target, connect
from eventmill.cli.output import print_answer


def funnel(target: Target, steps: Sequence[str], body: Mapping[str, Any], *, as_json: bool, as_csv: bool) -> None:
    """Print the answer of POST /funnels."""
    answer = asyncio.run(_ask(target, "/funnels", FunnelResponse, {**body, "steps": [_step(step) for step in steps]}))
    share = str if as_csv else _percent
    rows = _rows("all", steps, answer["steps"], share)
    for group in answer["groups"]:
        name = "(missing)" if group["group_value"] is None else group["group_value"]
        rows += _rows(name, steps, group["steps"], share)
    columns = [answer["group_by"] or "", "step", "users", "of first", "of previous", "median seconds"]
    print_answer(columns, rows, answer, as_json=as_json, as_csv=as_csv)


def retention(
    target: Target,
    started: str | None,
    returned: str | None,
    body: Mapping[str, Any],
    *,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Print the answer of POST /retention. An incomplete period has a `*`."""
    steps = {name: _step(step) for name, step in (("start", started), ("return", returned)) if step}
    answer = asyncio.run(_ask(target, "/retention", RetentionResponse, {**body, **steps}))
    if as_csv:
        columns = [answer["unit"], "users", "period", "returned", "complete"]
        print_answer(columns, _list_periods(answer), answer, as_json=False, as_csv=True)
        return
    most = max(len(cohort["periods"]) for cohort in answer["cohorts"])
    rows = [
        [cohort["cohort"], str(cohort["users"]), *(_period(period, cohort["users"]) for period in cohort["periods"])]
        for cohort in answer["cohorts"]
    ]
    columns = [answer["unit"], "users", *map(str, range(most))]
    padded = [row + [""] * (len(columns) - len(row)) for row in rows]
    print_answer(columns, padded, answer, as_json=as_json, as_csv=as_csv)


async def _ask(target: Target, path: str, kind: Any, body: Mapping[str, Any]) -> Any:
    given = {name: value for name, value in body.items() if value is not None}
    async with connect(target) as connection:
        return (await connection.post(path, kind, given))[0]


def _step(text: str) -> dict[str, Any]:
    """Return a step from a text such as `purchase&metadata.price>=10`."""
    name, *filters = text.split("&")
    return {"where": filters} | ({"event_name": name} if name else {})


def _list_periods(answer: Mapping[str, Any]) -> list[list[str]]:
    """Return a row for each period, for programs."""
    return [
        [cohort["cohort"], str(cohort["users"]), str(number), str(period["users"]), str(period["complete"]).lower()]
        for cohort in answer["cohorts"]
        for number, period in enumerate(cohort["periods"])
    ]


def _rows(
    group: str, names: Sequence[str], steps: Sequence[Mapping[str, Any]], share: Callable[[Any], str]
) -> list[list[str]]:
    return [
        [
            group,
            name,
            str(step["users"]),
            "" if step["conversion"] is None else share(step["conversion"]),
            "" if step["step_conversion"] is None else share(step["step_conversion"]),
            "" if step["median_seconds"] is None else f"{step['median_seconds']:g}",
        ]
        for name, step in zip(names, steps, strict=True)
    ]


def _period(period: Mapping[str, Any], users: int) -> str:
    mark = "" if period["complete"] else "*"
    return f"{period['users']} {_percent(period['users'] / users)}{mark}" if users else mark


def _percent(share: float) -> str:
    return f"{share:.1%}"
