"""Properties of events: what queries filter, group and measure by. docs/queries.md has the meanings for clients."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import Any, get_type_hints

from eventmill.errors import InvalidQuery
from eventmill.event import Event

TEXT_FIELDS = tuple(name for name, hint in get_type_hints(Event).items() if hint is str and name != "project")
TAG = "tag"
METADATA = "metadata."
ARRAY, OBJECT = "[…]", "{…}"  # the texts of all arrays, and of all objects
MAX_PATH_CHARACTERS = 256
MAX_KEYS = 32  # of a path, as deep as metadata may be
_LEAST_INTEGER, _GREATEST_INTEGER = -(2**63), 2**64 - 1  # greater ones are texts, as in ClickHouse
_GREATEST_POSITION = 21  # of the decimal point in a number without an exponent


@dataclass(frozen=True, slots=True)
class Property:
    """A text field such as `channel`, `tag`, or a value in the metadata.

    Attributes:
        name: as clients write it; a value in the metadata is `metadata.` and a path.
        keys: the keys of that path, else empty.
    """

    name: str
    keys: tuple[str, ...] = field(default=(), compare=False)

    def values(self, event: Event) -> tuple[str | None, ...]:
        """Return the distinct texts of an event: one, or all of its tags; (None,) if it has none."""
        if self.name == TAG:
            return tuple(dict.fromkeys(event.tags)) or (None,)
        if not self.keys:
            return (getattr(event, self.name),)
        found = self._find(event)
        return (None,) if found is _MISSING else (to_text(found),)

    def number(self, event: Event) -> float | None:
        """Return the value if it is a JSON number, as a 64-bit float, else None."""
        found = self._find(event) if self.keys else None
        return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None

    def _find(self, event: Event) -> Any:
        found: Any = read_metadata(bytes(event.metadata))
        for key in self.keys:
            if not isinstance(found, Mapping) or key not in found:
                return _MISSING
            found = found[key]
        return found


def parse_property(name: str, parameter: str) -> Property:
    r"""Return the property of this name. In a path `.` separates keys, and `\` makes the next character part of a key.

    Raise InvalidQuery, which names the parameter.
    """
    check_text(name, parameter)
    if name == TAG or name in TEXT_FIELDS:
        return Property(name)
    if not name.startswith(METADATA):
        known = ", ".join((*TEXT_FIELDS, TAG, f"{METADATA}PATH"))
        raise InvalidQuery(f"{parameter}: {name[:64]!r} is none of {known}", parameter)
    keys = _split(name.removeprefix(METADATA))
    if len(name) > MAX_PATH_CHARACTERS or len(keys) > MAX_KEYS or not all(keys):
        raise InvalidQuery(
            f"{parameter}: a path has 1 to {MAX_KEYS} keys, none of them empty, and at most {MAX_PATH_CHARACTERS}"
            f" characters, unlike {name[:64]!r}",
            parameter,
        )
    return Property(name, keys)


def check_text(text: str, parameter: str) -> None:
    """Raise InvalidQuery for a lone surrogate, which JSON can express, but no event can contain."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InvalidQuery("a text has a lone surrogate, which is not a character", parameter)


def join_path(keys: Iterable[str]) -> str:
    """Return the name of the property with these keys."""
    return METADATA + ".".join(key.replace("\\", "\\\\").replace(".", "\\.") for key in keys)


def to_text(value: Any) -> str:
    """Return the text of a JSON value, by which it is compared and grouped.

    A string is its characters; a number, true, false and null are their JSON text, where equal numbers have the same
    text: the shortest that gives the 64-bit float back.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _float_text(value)
    return OBJECT if isinstance(value, Mapping) else ARRAY


_MISSING = object()


def _split(path: str) -> tuple[str, ...]:
    keys, characters = [""], iter(path)
    for character in characters:
        if character == ".":
            keys.append("")
        else:
            keys[-1] += next(characters, "") if character == "\\" else character
    return tuple(keys)


@lru_cache(1024)
def read_metadata(metadata: bytes) -> Mapping[str, Any]:
    """Return the object; empty if it holds a number beyond the range of 64-bit floats, which no reader accepts."""
    try:
        read = json.loads(metadata, object_pairs_hook=_first_of_each, parse_int=_integer, parse_float=_finite)
    except (ValueError, RecursionError):
        return {}
    return read if isinstance(read, Mapping) else {}


def _first_of_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object; of repeated keys the first counts."""
    return dict(reversed(pairs))


def _integer(digits: str) -> int | str:
    if len(digits) > len(str(_LEAST_INTEGER)):
        return digits
    number = int(digits)
    return number if _LEAST_INTEGER <= number <= _GREATEST_INTEGER else digits


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(text)
    return number


def _float_text(number: float) -> str:
    """Return the shortest text that gives the number back, in the notation of ClickHouse."""
    if number == 0:
        return "0"  # also -0.0
    decimal = Decimal(repr(number))
    significant = "".join(map(str, decimal.as_tuple().digits)).rstrip("0") or "0"
    position = decimal.adjusted() + 1  # of the decimal point, counted from the first digit
    if 0 < position <= _GREATEST_POSITION:
        whole = significant[:position].ljust(position, "0")
        text = f"{whole}.{significant[position:]}" if significant[position:] else whole
    elif -6 < position <= 0:
        text = f"0.{'0' * -position}{significant}"
    else:
        fraction = f".{significant[1:]}" if significant[1:] else ""
        text = f"{significant[0]}{fraction}e{position - 1}"
    return "-" + text if decimal.is_signed() else text
