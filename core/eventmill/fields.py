"""How the table of event fields describes a field. The table itself is `eventmill.event.Event`.

Each attribute of `Event` is annotated with one `EventField`. Validation, the HTTP schema, the JSON lines, the columns
of stores, the responses, the documentation and the random events of the contract suites follow from these entries.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any

from msgspec import Meta, Raw

from eventmill.times import Rfc3339

MAX_TAGS = 64
MAX_NAME_CHARACTERS = 256  # of an event name

_REPEATED = "LowCardinality(String)"  # for texts that repeat: names, channels
_VARIED = "String CODEC(ZSTD(1))"


@dataclass(frozen=True, slots=True)
class EventField:
    """One field of an event.

    Attributes:
        meaning: what the field says, for documentation.
        column: its type in ClickHouse.
        sent: the msgspec type of the value that a client sends, or None if eventmill sets the field.
        rule: the rule for clients, as a text that completes "<field> …".
        sent_as: the field's name in a client's JSON.
        example: a value for documentation.
        is_required: whether a client must send it.
        name: the attribute of `Event`, filled in by the table.
        default: the value of an event that lacks it, filled in by the table.
    """

    meaning: str
    column: str
    sent: Any = None
    rule: str = ""
    sent_as: str = ""
    example: Any = None
    is_required: bool = False
    name: str = ""
    default: Any = ""

    def named(self, name: str, default: Any) -> "EventField":
        """Return the entry with the name and the default that its attribute has in the table."""
        return replace(self, name=name, default=default, sent_as=self.sent_as or name)


def assigned(meaning: str, column: str = _REPEATED) -> EventField:
    """Describe a field that eventmill sets."""
    return EventField(meaning, column)


def text(meaning: str, most: int, *, least: int = 1, varied: bool = False, example: str = "") -> EventField:
    """Describe a required text of `least` to `most` characters; `varied` for values that rarely repeat."""
    length = f"{least} to {most}" if least else f"at most {most}"
    sent = Annotated[str, Meta(min_length=least, max_length=most, description=meaning)]
    column = _VARIED if varied else _REPEATED
    return EventField(meaning, column, sent, f"must be a string of {length} characters", "", example, is_required=True)


def optional_text(meaning: str, most: int, *, least: int = 0, varied: bool = False, example: str = "") -> EventField:
    """Describe a text that clients may leave out; give its attribute a default."""
    return replace(text(meaning, most, least=least, varied=varied, example=example), is_required=False)


def timestamp(meaning: str) -> EventField:
    """Describe the time of an event, which clients send in seconds or as RFC 3339."""
    return EventField(
        meaning,
        "Int64",
        Annotated[int | float | Rfc3339, Meta(description=meaning)],
        'must be unix seconds or an RFC 3339 time such as "2025-12-26T03:00:00Z"',
        "timestamp",
        1766717657,
        is_required=True,
    )


def text_list(meaning: str, example: list[str]) -> EventField:
    """Describe a list of short texts."""
    tag = Annotated[str, Meta(min_length=1, max_length=128)]
    sent = Annotated[tuple[tag, ...], Meta(max_length=MAX_TAGS, description=meaning)]
    rule = f"must be a list of at most {MAX_TAGS} strings of 1 to 128 characters"
    return EventField(meaning, f"Array({_REPEATED})", sent, rule, "", example)


def json_object(meaning: str, example: dict[str, Any]) -> EventField:
    """Describe a JSON object that is kept byte for byte."""
    sent = Annotated[Raw, Meta(extra_json_schema={"type": "object"}, description=meaning)]
    return EventField(meaning, "String CODEC(ZSTD(3))", sent, "must be a JSON object", "", example)
