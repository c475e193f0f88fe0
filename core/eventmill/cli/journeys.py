"""eventmill funnel and eventmill retention: how users go from step to step, and whether they come back."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from eventmill.api.journeys import FunnelResponse, RetentionResponse
from eventmill.cli.connection import Target, connect
from eventmill.cli.output import print_answer


def funnel(target: Target, steps: Sequence[str], body: Mapping[str, Any], *, as_json: bool, as_csv: bool) -> None:
    """Print the answer of POST /funnels."""
    answer = asyncio.run(_ask(target, "/funnels", FunnelResponse, {**body, "steps": [_step(step) for step in steps]}))
    rows = _rows("all", steps, answer["steps"])
    for group in answer["groups"]:
        rows += _rows("(missing)" if group["group_value"] is None else group["group_value"], steps, group["steps"])
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


def _rows(group: str, names: Sequence[str], steps: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    return [
        [
            group,
            name,
            str(step["users"]),
            _percent(step["conversion"]),
            _percent(step["step_conversion"]),
            "" if step["median_seconds"] is None else f"{step['median_seconds']:g}",
        ]
        for name, step in zip(names, steps, strict=True)
    ]


def _period(period: Mapping[str, Any], users: int) -> str:
    mark = "" if period["complete"] else "*"
    return f"{period['users']} {_percent(period['users'] / users)}{mark}" if users else mark


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
