"""eventmill query: count events and unique users, or measure a property."""

import asyncio
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from eventmill.api.metrics import MetricsResponse
from eventmill.cli.connection import Target, ask
from eventmill.cli.output import print_answer
from eventmill.errors import ConfigurationError, InvalidQuery
from eventmill.queries.buckets import UNITS
from eventmill.queries.parameters import split_filter

_BARS = "▁▂▃▄▅▆▇█"
_MAX_SERIES = 10
_WIDTH = 60


def parameters(
    event_names: Sequence[str] | None, where: Sequence[str] | None, wanted: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the parameters of a request; filters are cut at the first `=`, as in a query string."""
    given: defaultdict[str, list[Any]] = defaultdict(list)
    try:
        for name, value in map(split_filter, where or ()):
            given[name].append(value)
    except InvalidQuery as error:
        raise ConfigurationError(f"--where: {error}") from None
    given["event_name"] += event_names or ()
    return dict(given) | {name: value for name, value in wanted.items() if value is not None}


def query(target: Target, wanted: Mapping[str, Any], *, as_json: bool, as_csv: bool) -> None:
    """Print the answer of GET /metrics."""
    answer = asyncio.run(ask(target, "/metrics", MetricsResponse, wanted))
    by = _listed(answer["group_by"]) if answer["group_by"] else []
    figures = [name for name in ("total_count", "unique_count", "value") if name in answer]
    titles = {"total_count": "events", "unique_count": "users", "value": answer.get("measure", "")}
    names = ", ".join(_listed(answer["event_name"] or "events"))
    columns = [*(by or [names]), *(titles[name] for name in figures)]
    former = _former(answer, by, figures[0])
    rows = [
        [*map(_text, _listed(group["group_value"])), *_cells(group, figures), *former[number : number + 1]]
        for number, group in enumerate(answer["groups"])
    ]
    rest = [""] * (len(by) - 1)
    for group in answer.get("other", ()):
        time = [each or "" for each in _listed(group["group_value"])]
        rows.append([*(["other", *time, *rest][: len(by)]), *_cells(group, figures)])
    rows.append(["all", *rest, *_cells(answer, figures)])
    if previous := answer.get("previous"):
        columns.append("events before")
        rows = [row + [""] * (len(columns) - len(row)) for row in rows]
        rows.append(["before", *rest, *_cells(previous, figures), ""])
    print_answer(columns, rows, answer, as_json=as_json, as_csv=as_csv)
    if not as_json and not as_csv and sys.stdout.isatty():
        _print_series(answer, by, figures[-1] if "measure" in answer else figures[0])


def _former(answer: Mapping[str, Any], by: Sequence[str], figure: str) -> list[str]:
    """Return the figure of each group in the previous span: of the same values, or of the time at the same place."""
    if not (previous := answer.get("previous")) or not by:
        return []
    is_time = any(name in UNITS for name in by)
    groups = previous["groups"]
    if is_time and len(by) == 1:
        return [str(group[figure]) for group in groups]
    known = {json.dumps(group["group_value"]): str(group[figure]) for group in groups}
    return [] if is_time else [known.get(json.dumps(group["group_value"]), "0") for group in answer["groups"]]


def _listed(value: Any) -> list[Any]:
    """Return a value that is alone in a response as a list."""
    if isinstance(value, list):
        return value
    return [value]


def _cells(counted: Mapping[str, Any], figures: Sequence[str]) -> list[str]:
    return ["" if counted.get(name) is None else _number(counted[name]) for name in figures]


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.15g}"


def _text(value: str | None) -> str:
    return "(missing)" if value is None else value


def _print_series(answer: Mapping[str, Any], by: Sequence[str], figure: str) -> None:
    """Print a line of bars for each series of times."""
    times = [place for place, name in enumerate(by) if name in UNITS]
    if not times:
        return
    series: defaultdict[str, list[float]] = defaultdict(list)
    for group in answer["groups"]:
        others = [_text(value) for place, value in enumerate(_listed(group["group_value"])) if place not in times]
        series[" ".join(others)].append(group.get(figure) or 0)
    for name, values in list(series.items())[:_MAX_SERIES]:
        sys.stdout.write(f"{bars(values)}  {name}\n")


def bars(values: Sequence[float]) -> str:
    """Return a line of bars, at most 60 of them: each is the greatest of its values."""
    step = -(-len(values) // _WIDTH)
    shown = [max(values[start : start + step]) for start in range(0, len(values), step)]
    most = max([*shown, 0]) or 1
    return "".join(_BARS[max(0, min(len(_BARS) - 1, int(value / most * len(_BARS))))] for value in shown)
