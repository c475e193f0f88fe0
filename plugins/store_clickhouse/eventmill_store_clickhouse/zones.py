"""Time zones and types in the SQL of operators.

The engine opens a time zone such as `file:/etc/x`, `/etc/x` or `../x` as a file, and waits for it as long as it takes;
it does so while it analyzes a statement, also for a zone that is computed of constants, and for one inside a type. So
where a function may take a zone or a type, only literals pass.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from eventmill import InvalidQuery

CATEGORIES = {"Dates and Times", "IP Address", "Time Window", "Type Conversion", "UUID"}  # of functions with zones
_TYPED = {"cast", "_cast", "reinterpret", "defaultvalueoftypename", "dynamicelement", "variantelement"}
_TYPED |= {f"accuratecast{suffix}" for suffix in ("", "ornull", "ordefault")}
_TYPED |= {f"jsonextract{kind}{suffix}" for kind in ("", "keysandvalues") for suffix in ("", "caseinsensitive")}
_UNITS = ["year", "quarter", "month", "week", "day", "hour", "minute", "second"]
_UNITS += ["millisecond", "microsecond", "nanosecond"]
# How many arguments come before the place of a zone; 1 for all others.
_BEFORE_ZONE = {
    **dict.fromkeys(("now", "nowinblock", "current_timestamp", "localtimestamp"), 0),
    **{f"{verb}{unit}s": 2 for verb in ("add", "subtract") for unit in _UNITS},
    **dict.fromkeys(("addinterval", "subtractinterval", "adddate", "subdate", "timediff", "timestamp"), 2),
    **dict.fromkeys(("datetrunc", "date_trunc", "datename", "tostartofinterval", "date_bin", "time_bucket"), 2),
    **dict.fromkeys(("tumble", "tumblestart", "tumbleend", "tofixedstring"), 2),
    **dict.fromkeys(("hop", "hopstart", "hopend", "makedate", "makedate32", "timeslots"), 3),
    **dict.fromkeys(("datediff", "date_diff", "timestampdiff", "timestamp_diff", "age"), 3),
    "makedatetime": 6,
    "makedatetime64": 8,
}


class Node(NamedTuple):
    """A line of EXPLAIN AST."""

    depth: int
    kind: str
    name: str


def check(nodes: Sequence[Node], at: int, *, has_zone: bool) -> None:
    """Raise InvalidQuery if the function at this place may open a file; `has_zone` says whether it may take a zone."""
    name = nodes[at].name.lower()
    if name in _TYPED:
        for argument in _arguments(nodes, at)[1:]:
            if argument.kind != "Literal" or "'" in argument.name.strip("'"):
                raise InvalidQuery(f"sql: the type in {name} must be a literal without quotes: 'DateTime'", "sql")
    elif has_zone:
        free = _BEFORE_ZONE.get(name, 1)
        if not all(map(_is_harmless, _arguments(nodes, at)[free:])):
            raise InvalidQuery(
                f"sql: after argument {free}, {name} takes literals only; a time zone is a name as 'Europe/Berlin'",
                "sql",
            )


def _is_harmless(argument: Node) -> bool:
    if argument.kind == "Function":
        return argument.name.lower().startswith("tointerval")
    text = argument.name.strip("'")
    return argument.kind == "Literal" and not (text.startswith(("/", ".", ":", "file:", "\\")) or ".." in text)


def _arguments(nodes: Sequence[Node], at: int) -> list[Node]:
    """Return the arguments of a function, which are in the first list below it."""
    below = list(_below(nodes, at))
    lists = [place for place, node in enumerate(below) if node.depth == nodes[at].depth + 1]
    first = below[: lists[1]] if len(lists) > 1 else below
    return [node for node in first if node.depth == nodes[at].depth + 2]


def _below(nodes: Sequence[Node], at: int) -> Iterable[Node]:
    for node in nodes[at + 1 :]:
        if node.depth <= nodes[at].depth:
            return
        yield node
