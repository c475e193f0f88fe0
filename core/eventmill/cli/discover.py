"""eventmill names and eventmill properties: which events exist, and what they have."""

import asyncio
from collections.abc import Mapping
from typing import Any

from eventmill.api.discovery import EventNamesResponse, PropertiesResponse
from eventmill.cli.connection import Target, ask
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


def _values(values: list[dict[str, Any]]) -> str:
    return ", ".join(f"{each['value']} ({each['count']})" for each in values[:_SHOWN_VALUES])
