"""Random questions about events that are hard to answer: hostile texts, odd JSON, both ends of daylight saving time."""

import dataclasses
import random
from math import isclose
from typing import Any

import msgspec
from hypothesis import reject
from hypothesis import strategies as st

from eventmill import (
    COMPARISONS,
    DATES,
    NUMERIC,
    TAG,
    TEXT_FIELDS,
    UNITS,
    Bucket,
    Condition,
    Event,
    EventFilter,
    FunnelQuery,
    InvalidQuery,
    Measure,
    MetricsQuery,
    Operator,
    Property,
    QueryTooLarge,
    RetentionQuery,
    Step,
    join_path,
    parse_property,
)
from eventmill.testing.events import make_event

TEXTS = [
    *("", "web", "Web", "web ", "'", '"', "\\", "' OR 1=1 --", "{value_0:String}", "%s", "_%", "null", "true", "10"),
    *("\u202e rtl", "\ufeff", "\U0001f600", "é", "e\u0301", "`", "/*", "${x}", "\ufffe", "[…]", "é" * 64, "is_other"),
]
KEYS = [
    ("price",),
    ("plan",),
    ("a", "b"),
    ("a.b",),
    ("a\\b",),
    ("'",),
    ("ключ",),
    ('"]}',),
    ("1",),
    ("{value_0:String}",),
]
JSON_VALUES = [
    *("1", "1.0", "1e0", "10", "1.50", "-0.0", "-0", "0.000001", "1e-7", "123456789.123456789", "1e20", "1e21", "3e22"),
    *("9007199254740993", "9007199254740993.0", "18446744073709551615", "18446744073709551616", "-9223372036854775809"),
    *(
        "5e-324",
        "0.1",
        "-2.5",
        "true",
        "false",
        "null",
        '""',
        '"10"',
        '"web"',
        '"null"',
        '"x\\u0000y"',
        '"\\ud83d\\ude00"',
    ),
    *('"a\\/b\\n"', '"{"', "[1, 2]", "[]", "{}", '{"b": 5}', '{"b": null}', '{"b": {"c": 1}}', "4.0", " 7 ", "3"),
]
ZONES = ["UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia"]
# 2023-10-29 01:00 and 2024-03-31 01:00 UTC: Europe; 2024-04-06 15:00: Lord Howe, by half an hour; 2024-02-29.
CHANGES_MS = [1_698_541_200_000, 1_711_846_800_000, 1_712_415_600_000, 1_709_164_800_000]
START_MS, END_MS = CHANGES_MS[0] - 7 * 86_400_000, CHANGES_MS[2] + 7 * 86_400_000
NAMES = ["page_view", "sign_up", "page_view ", "purchase", "' OR ''='"]
ERASED = "erased"
USERS = [*(f"user {number}" for number in range(30)), "'", "\\", ERASED]
OPERATORS: list[Operator] = ["=", "!=", "<", "<=", ">", ">=", "has", "lacks"]


def make_hard_events(count: int, seed: int = 0) -> list[Event]:
    """Return random events, some of them twice in different versions, and some of the user `ERASED`."""
    rng = random.Random(seed)
    events = [_make_event(rng, number) for number in range(count)]
    newer = [
        msgspec.structs.replace(
            event, user_id=rng.choice(USERS), channel=rng.choice(TEXTS[1:]), version=event.version + 1
        )
        for event in rng.sample(events, count // 10)
    ]
    return events + newer


def _make_event(rng: random.Random, number: int) -> Event:
    near_ms = rng.choice([CHANGES_MS[0], *CHANGES_MS]) + rng.choice([-1, 0, 1, rng.randrange(-(10**7), 10**7)])
    members = [f"{msgspec.json.encode(key).decode()}: {rng.choice(JSON_VALUES)}" for (key, *_) in rng.sample(KEYS, 3)]
    broken = ['"price": 1e400'] if rng.random() < 0.02 else []
    return make_event(
        event_name=rng.choice(NAMES),
        channel=rng.choice(TEXTS[1:]),
        campaign_id=rng.choice(TEXTS),
        user_id=rng.choice(USERS),
        tags=tuple(rng.choice(TEXTS[1:]) for _ in range(rng.randrange(4))),
        metadata=f"{{{', '.join(members + broken)}}}".encode(),
        timestamp_ms=near_ms if rng.random() < 0.8 else rng.randrange(START_MS, END_MS),
        event_id=f"{number}",
    )


METADATA = st.sampled_from(KEYS).map(lambda keys: parse_property(join_path(keys), "test"))
_NUMBERS = st.sampled_from([0.0, 1.0, 1.5, -1.0, 3.0, 1e-7, 1e20, 9007199254740992.0, 0.1])
_VALUES = st.lists(st.sampled_from([*TEXTS, "1", "1.5", "0", "-0", "1e-7", "100000000000000000000", "{…}"]), min_size=1)


def properties() -> st.SearchStrategy[Property]:
    """Any property."""
    return st.sampled_from([Property(name) for name in (*TEXT_FIELDS, TAG) if name != "event_id"]) | METADATA


@st.composite
def conditions(draw: st.DrawFn) -> Condition:
    """Any condition."""
    operator = draw(st.sampled_from(OPERATORS))
    if operator in COMPARISONS:
        return Condition(draw(METADATA), operator, number=draw(_NUMBERS))
    if operator in ("has", "lacks"):
        return Condition(draw(properties()), operator)
    return Condition(draw(properties()), operator, tuple(draw(_VALUES)))


@st.composite
def filters(draw: st.DrawFn) -> EventFilter:
    """Events of all names or some, in a span around a change of the clocks or in all of it."""
    names = draw(st.none() | st.lists(st.sampled_from([*NAMES, "never"]), max_size=3, unique=True).map(tuple))
    near_ms = draw(st.sampled_from(CHANGES_MS))
    start_ms = draw(st.just(START_MS) | st.integers(near_ms - 10**7, near_ms))
    end_ms = draw(st.just(END_MS) | st.integers(near_ms + 1, near_ms + 10**7))
    return EventFilter("default", start_ms, end_ms, names, where=tuple(draw(st.lists(conditions(), max_size=2))))


@st.composite
def metrics_queries(draw: st.DrawFn) -> MetricsQuery:
    """Any exact query for metrics that is not too large."""
    dimension = properties() | st.builds(Bucket, st.sampled_from(UNITS), st.sampled_from(ZONES))
    measure = st.none() | st.sampled_from(["count", "users"]).map(Measure)
    measure |= st.builds(Measure, st.sampled_from(NUMERIC), METADATA)
    group_by = tuple(draw(st.lists(dimension, max_size=2)))
    limit = draw(st.none() | st.sampled_from([1, 2, 5]))
    try:
        return MetricsQuery(draw(filters()), group_by, draw(measure), limit)
    except (InvalidQuery, QueryTooLarge):
        reject()


@st.composite
def _steps(draw: st.DrawFn) -> Step:
    names = draw(st.none() | st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True).map(tuple))
    return Step(names, tuple(draw(st.lists(conditions(), max_size=1))))


@st.composite
def funnel_queries(draw: st.DrawFn) -> FunnelQuery:
    """Any funnel."""
    steps = tuple(draw(st.lists(_steps(), min_size=2, max_size=5)))
    window_ms = draw(st.sampled_from([1, 1000, 600_000, 3_600_000, 86_400_000, 400 * 86_400_000]))
    by = draw(st.none() | properties().filter(lambda by: by.name != TAG))
    return FunnelQuery(dataclasses.replace(draw(filters()), event_names=None), steps, window_ms, by)


@st.composite
def retention_queries(draw: st.DrawFn) -> RetentionQuery:
    """Any retention."""
    bucket = draw(st.builds(Bucket, st.sampled_from(DATES), st.sampled_from(ZONES)))
    return RetentionQuery(
        dataclasses.replace(draw(filters()), event_names=None), bucket, draw(_steps()), draw(_steps())
    )


def agree(one: object, other: object) -> bool:
    """Return whether two answers are equal; numbers to 1e-9, since the order of additions is free."""
    if isinstance(one, float) or isinstance(other, float):
        return (
            isinstance(one, int | float)
            and isinstance(other, int | float)
            and isclose(one, other, rel_tol=1e-9, abs_tol=1e-9)
        )
    if dataclasses.is_dataclass(one) and dataclasses.is_dataclass(other):
        return agree(vars_of(one), vars_of(other))
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(map(agree, one, other))
    return one == other


def vars_of(answer: Any) -> list[Any]:
    """Return the values of the fields of a dataclass."""
    return [getattr(answer, field.name) for field in dataclasses.fields(answer)]
