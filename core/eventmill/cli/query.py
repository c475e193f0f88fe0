"""eventmill query: count events and unique users, or measure a property."""

import asyncio
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from eventmill.api.metrics import MetricsResponse
from eventmill.cli.connection import Target, ask
from eventmill.cli.output import print_answer
from eventmill.queries.buckets import UNITS

_BARS = "▁▂▃▄▅▆▇█"
_MAX_SERIES = 10
_WIDTH = 60


def parameters(
    event_names: Sequence[str] | None, where: Sequence[str] | None, wanted: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the parameters of a request; filters are cut at the first `=`, as in a query string."""
    given: defaultdict[str, list[Any]] = defaultdict(list)
    for each in where or ():
        name, _, value = each.partition("=")
        given[name].append(value)
    given["event_name"] += event_names or ()
    return dict(given) | {name: value for name, value in wanted.items() if value is not None}


def query(target: Target, wanted: Mapping[str, Any], *, as_json: bool, as_csv: bool) -> None:
    """Print the answer of GET /metrics."""
    answer = asyncio.run(ask(target, "/metrics", MetricsResponse, wanted))
    by = _listed(answer["group_by"]) if answer["group_by"] else []
    figures = [name for name in ("total_count", "unique_count", "value") if name in answer]
    titles = {"total_count": "events", "unique_count": "users", "value": answer.get("measure", "")}
    columns = [*(by or [""]), *(titles[name] for name in figures)]
    rows = [[*map(_text, _listed(group["group_value"])), *_cells(group, figures)] for group in answer["groups"]]
    rest = [""] * (len(by) - 1)
    for group in answer.get("other", ()):
        time = [each or "" for each in _listed(group["group_value"])]
        rows.append([*(["other", *time, *rest][: len(by)]), *_cells(group, figures)])
    rows.append([_name(answer, by), *rest, *_cells(answer, figures)])
    if previous := answer.get("previous"):
        rows.append(["before", *rest, *_cells(previous, figures)])
    print_answer(columns, rows, answer, as_json=as_json, as_csv=as_csv)
    if not as_json and not as_csv and sys.stdout.isatty():
        _print_series(answer, by, figures[-1] if "measure" in answer else figures[0])


def _name(answer: Mapping[str, Any], by: Sequence[str]) -> str:
    """Return what the row of the total is called."""
    return "all" if by or not answer["event_name"] else ", ".join(_listed(answer["event_name"]))


def _listed(value: Any) -> list[Any]:
    """Return a value that is alone in a response as a list."""
    if isinstance(value, list):
        return value
    return [value]


def _cells(counted: Mapping[str, Any], figures: Sequence[str]) -> list[str]:
    return ["" if counted.get(name) is None else f"{counted[name]:.12g}" for name in figures]


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
