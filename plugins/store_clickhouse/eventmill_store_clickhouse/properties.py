"""Properties, conditions and buckets of time in SQL. Values are bound as parameters, never part of the text."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from eventmill import ARRAY, COMPARISONS, OBJECT, Bucket, Condition, Dimension, Property

_SCALAR = re.compile(r"-?[0-9]|(true|false|null)$")  # the beginning of a JSON value that is no string and not nested
_DATES = {"day": "toDate", "week": "toMonday", "month": "toStartOfMonth"}
_STEPS = {"minute": 60, "hour": 3600}


@dataclass(frozen=True, slots=True)
class Table:
    """What a statement must know of the table of events.

    Attributes:
        has_erasures: whether it must look for erased events of the project.
        columns: the materialized properties: the name of the column by the keys of the path.
    """

    has_erasures: bool = True
    columns: Mapping[tuple[str, ...], str] = field(default_factory=dict)


class Values:
    """The parameters of one statement, and the table that it reads."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.bound: dict[str, Any] = {}

    def bind(self, kind: str, value: Any) -> str:
        """Return the placeholder of a value."""
        name = f"value_{len(self.bound)}"
        self.bound[name] = value
        return f"{{{name}:{kind}}}"


def dimension(by: Dimension, values: Values) -> str:
    """Return the expression of a key; that of `tag` is an array, of each tag and its number."""
    return _bucket(by, values) if isinstance(by, Bucket) else text(by, values)


def text(subject: Property, values: Values) -> str:
    """Return the expression of the text, NULL if it is missing; see `Property.values`."""
    if subject.name == "tag":
        tags = "if(empty(tags), [NULL], arrayMap(x -> toNullable(toString(x)), arrayDistinct(tags)))"
        return f"arrayZip({tags}, arrayEnumerate({tags}))"
    if not subject.keys:
        return subject.name
    raw = _raw(subject, values)
    return f"""multiIf({raw} = '', NULL, startsWith({raw}, '"'), JSONExtractString({raw}),
        startsWith({raw}, '{{'), '{OBJECT}', startsWith({raw}, '['), '{ARRAY}', {raw} = '-0', '0', {raw})"""


def number(subject: Property, values: Values) -> str:
    """Return the expression of the number, NULL if there is none; see `Property.number`."""
    raw = _raw(subject, values)
    return f"if(match({raw}, '^[-0-9]'), toFloat64OrNull({raw}), NULL)"


def condition(wanted: Condition, values: Values) -> str:
    """Return the expression of a condition, which is never NULL."""
    subject, operator = wanted.property, wanted.operator
    if operator in COMPARISONS:
        return f"ifNull({number(subject, values)} {operator} {values.bind('Float64', wanted.number)}, 0)"
    if operator in ("has", "lacks"):
        expression = _is_present(subject, values)
    else:
        expression = _is_one_of(subject, list(wanted.values), values)
    return f"NOT ({expression})" if operator in ("!=", "lacks") else expression


def _is_present(subject: Property, values: Values) -> str:
    if subject.name == "tag":
        return "notEmpty(tags)"
    return f"{_raw(subject, values)} != ''" if subject.keys else "1"


def _is_one_of(subject: Property, texts: list[str], values: Values) -> str:
    wanted = values.bind("Array(String)", texts)
    if subject.name == "tag":
        return f"hasAny(arrayMap(x -> toString(x), tags), {wanted})"
    if not subject.keys:
        return f"{subject.name} IN {wanted}"
    return _has_text(_raw(subject, values), texts, values)


def _has_text(raw: str, texts: list[str], values: Values) -> str:
    """Return the expression of whether JSON in the engine's notation has one of the texts.

    Comparing it as it is takes a third of the time of decoding it.
    """
    scalars = [each for each in texts if _SCALAR.match(each) and each != "-0"]
    scalars += ["-0"] if "0" in texts else []  # the engine keeps the sign of -0.0, which is equal to 0
    strings = [json.dumps(each, ensure_ascii=False) for each in texts]
    encoded = f"arrayMap(x -> JSONExtractRaw(x), {values.bind('Array(String)', strings)})"
    nested = [f"startsWith({raw}, '{text[0]}')" for text in (ARRAY, OBJECT) if text in texts]
    return " OR ".join([f"{raw} IN {values.bind('Array(String)', scalars)}", f"has({encoded}, {raw})", *nested])


def _raw(subject: Property, values: Values) -> str:
    """Return the expression of the value as JSON, in the engine's notation; '' if it is missing."""
    if column := values.table.columns.get(subject.keys):
        return column
    keys = ", ".join(values.bind("String", key) for key in subject.keys)
    return f"JSONExtractRaw(metadata, {keys})"


def _bucket(bucket: Bucket, values: Values) -> str:
    """Return the expression of the key; see `Bucket`."""
    tz = values.bind("String", bucket.tz)
    if step := _STEPS.get(bucket.name):
        offset = "0" if bucket.tz == "UTC" else f"toInt64(timezoneOffset(toTimeZone(timestamp, {tz})))"
        seconds = "toInt64(toUnixTimestamp(timestamp))"
        start = f"{seconds} - ({seconds} + {offset}) % {step}"
        return f"({start}) * 1000 + intDiv({offset}, 900) + 500"
    return f"toInt32({_DATES[bucket.name]}(timestamp, {tz}))"
