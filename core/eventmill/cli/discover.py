"""eventmill names and eventmill properties: which events exist, and what they have."""

import asyncio
import sys
from collections.abc import Mapping
from typing import Any

from eventmill.api.discovery import EventNamesResponse, MaterializedResponse, PropertiesResponse
from eventmill.cli.connection import Target, ask, connect
from eventmill.cli.output import print_answer
from eventmill.times import describe

_SHOWN_VALUES = 5


def names(target: Target, wanted: Mapping[str, Any], *, as_json: bool, as_csv: bool) -> None:
    """Print the names of events."""
    answer = asyncio.run(ask(target, "/event-names", EventNamesResponse, wanted))
    rows = [
        [
            each["event_name"],
            str(each["total_count"]),
            str(each["unique_count"]),
            describe(round(each["first_seen"] * 1000)),
            describe(round(each["last_seen"] * 1000)),
        ]
        for each in answer["event_names"]
    ]
    columns = ["event", "events", "users", "first seen", "last seen"]
    print_answer(columns, rows, answer, as_json=as_json, as_csv=as_csv)


def properties(target: Target, wanted: Mapping[str, Any], *, as_json: bool, as_csv: bool) -> None:
    """Print the tags and the metadata of a sample of events."""
    answer = asyncio.run(ask(target, "/properties", PropertiesResponse, wanted))
    rows = [["tag", each["value"], str(each["count"]), "", ""] for each in answer["tags"]]
    rows += [
        ["property", each["name"], str(each["count"]), ", ".join(each["types"]), _values(each["values"])]
        for each in answer["properties"]
    ]
    rows.append(
        ["sample", "", str(answer["sampled"]), "", "all events" if answer["is_complete"] else "the newest events"]
    )
    print_answer(["", "name", "events", "types", "values"], rows, answer, as_json=as_json, as_csv=as_csv)


def materialize(target: Target, name: str) -> None:
    """Ask the store to materialize a property, and print whether it did."""
    answer = asyncio.run(_materialize(target, name))
    if answer["materialized"]:
        sys.stdout.write(f"{answer['name']} has a column of its own; older events follow in the background\n")
    else:
        sys.stdout.write("this store has no columns for properties: nothing was changed\n")


async def _materialize(target: Target, name: str) -> Any:
    async with connect(target) as connection:
        return (await connection.post("/properties/materialize", MaterializedResponse, {"name": name}))[0]


def _values(values: list[dict[str, Any]]) -> str:
    return ", ".join(f"{each['value']} ({each['count']})" for each in values[:_SHOWN_VALUES])
