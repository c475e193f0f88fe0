"""Validates the JSON text of one event and builds the Event. The rules come from the table of event fields."""

import re
from datetime import datetime
from operator import attrgetter
from typing import Any, NoReturn, get_args

import msgspec
from msgspec import Raw

from eventmill.errors import InvalidEvent, PayloadTooLarge
from eventmill.event import (
    ADDED_FIELDS,
    CLOCK_SKEW_MS,
    EVENT_FIELDS,
    MAX_EVENT_BYTES,
    MAX_METADATA_DEPTH,
    MIN_TIME_MS,
    Event,
    build_event,
)
from eventmill.fields import EventField
from eventmill.ingest import rawjson
from eventmill.times import describe, to_microseconds

_SENT_FIELDS = sorted(
    (field for field in EVENT_FIELDS if field.sent is not None), key=lambda field: not field.is_required
)
RULES = {field.sent_as: field.rule for field in _SENT_FIELDS}


def _define(field: EventField) -> Any:
    if field.is_required:
        return field.sent_as, field.sent
    # A factory, since JSON schemas cannot show a Raw default.
    default = msgspec.field(default_factory=lambda: field.default) if isinstance(field.default, Raw) else field.default
    return field.sent_as, field.sent, default


# An event as a client sends it: a structure with the fields of the table that have a type to be sent.
SentEvent: Any = msgspec.defstruct(
    "SentEvent", [_define(field) for field in _SENT_FIELDS], forbid_unknown_fields=True, gc=False
)
_TEXTS = [field.sent_as for field in _SENT_FIELDS if str in get_args(field.sent)[:1]]
_read_texts: Any = attrgetter(*_TEXTS)
_LISTS = [field.sent_as for field in _SENT_FIELDS if isinstance(field.default, tuple)]
_ADDED_OBJECTS = [field.sent_as for field in ADDED_FIELDS if isinstance(field.default, Raw)]

_decode_event: Any = msgspec.json.Decoder(SentEvent).decode
_decode_any = msgspec.json.Decoder().decode
_PATH = re.compile(r" - at `\$\.?([a-z0-9_]+).*`$")
_UNKNOWN, _MISSING = "Object contains unknown field `", "Object missing required field `"
_BYTE = re.compile(r" \(byte (\d+)\)$")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def parse_event(raw: bytes | Raw, project: str, now_ms: int, oldest_ms: int = MIN_TIME_MS) -> Event:
    """Validate and build the event in `raw`, the JSON text as it was sent.

    Raise InvalidEvent, or PayloadTooLarge for more than 32 KiB, with a message that names the field.
    """
    if len(raw) > MAX_EVENT_BYTES:
        raise PayloadTooLarge(f"the event has {len(raw)} bytes; the limit is {MAX_EVENT_BYTES}")
    try:
        sent = _decode_event(raw)
        metadata = bytes(sent.metadata)
        if metadata != b"{}":
            _check_object("metadata", metadata)
        for name in _ADDED_OBJECTS:
            _check_object(name, bytes(getattr(sent, name)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _explain(bytes(raw), error)
    _check_controls(sent)
    added = {field.name: getattr(sent, field.sent_as) for field in ADDED_FIELDS} if ADDED_FIELDS else {}
    return build_event(
        project,
        sent.event_name,
        _check_time(sent.timestamp, now_ms, oldest_ms),
        sent.event_id,
        sent.channel,
        sent.user_id,
        sent.campaign_id,
        sent.tags,
        metadata,
        now_ms,
        added,
    )


def _check_object(name: str, text: bytes) -> None:
    content = _decode_any(text)
    if not isinstance(content, dict):
        raise InvalidEvent(f"{name} {RULES[name]}", name)
    # Fewer brackets than the limit cannot be nested deeper than the limit.
    if text.count(b"{") + text.count(b"[") > MAX_METADATA_DEPTH and _depth(content) > MAX_METADATA_DEPTH:
        raise InvalidEvent(f"{name} is nested deeper than {MAX_METADATA_DEPTH} levels", name)


def _depth(value: object) -> int:
    depth, level = 0, [value]
    while level:
        containers = [item for item in level if isinstance(item, dict | list)]
        depth += bool(containers)
        level = [x for item in containers for x in (item.values() if isinstance(item, dict) else item)]
    return depth


def _check_controls(sent: Any) -> None:
    texts = "".join(_read_texts(sent))
    for name in _LISTS:
        if values := getattr(sent, name):
            texts += "".join(values)
    if texts.isprintable() or not _CONTROL.search(texts):
        return
    for name in (*_TEXTS, *_LISTS):
        if _CONTROL.search("".join(getattr(sent, name))):
            raise InvalidEvent(f"{name} must not contain control characters", name)


def _check_time(timestamp: float | datetime, now_ms: int, oldest_ms: int) -> int:
    try:
        time_us = to_microseconds(timestamp)
    except ValueError as error:
        raise InvalidEvent(f"timestamp {error}", "timestamp") from None
    if time_us < oldest_ms * 1000:
        raise InvalidEvent(f"timestamp is before {describe(oldest_ms)}, the oldest time that is accepted", "timestamp")
    if time_us > (now_ms + CLOCK_SKEW_MS) * 1000:
        raise InvalidEvent("timestamp is more than 5 minutes in the future", "timestamp")
    return time_us


def _explain(raw: bytes, error: Exception) -> NoReturn:
    """Raise InvalidEvent for an event that cannot be decoded. Slow, hence not on the path of valid events."""
    text = str(error)
    if isinstance(error, msgspec.ValidationError) and (broken := _broken_rule(text)):
        raise InvalidEvent(*broken) from None
    if not raw.strip():
        raise InvalidEvent("the body is empty: send an event") from None
    try:
        for part in rawjson.members(raw):
            problem = _problem(part.value, part.offset)
            if problem is not None:
                field = part.key[1:-1].decode(errors="replace")
                raise InvalidEvent(f"{field} {problem}", field) from None
    except ValueError:
        pass
    raise InvalidEvent(f"the event {malformed(raw, error)}") from None


def _broken_rule(text: str) -> tuple[str, str | None] | None:
    """Return a message and the field for the rule that msgspec's message names, or None if it names no field.

    They are values: an exception that its own frame holds keeps the body alive. Only the first two kinds of messages
    contain client data, after a fixed prefix.
    """
    if text.startswith(_UNKNOWN):
        name = text[len(_UNKNOWN) : -1][:64]
        return f"unknown field {name!r}: put it under metadata", name
    if text.startswith(_MISSING):
        name = text[len(_MISSING) : -1]
        return f"{name} is required: it {RULES[name]}", name
    if text.startswith("Expected `object`"):
        return f"an event must be one JSON object: e{text[1:].replace('`', '')}", None
    path = _PATH.search(text)
    if path is None or path[1] not in RULES:
        return None
    detail = text[: path.start()].replace("`", "")
    return f"{path[1]} {RULES[path[1]]}: {detail[0].lower()}{detail[1:]}", path[1]


def _problem(value: bytes, offset: int) -> str | None:
    """Return why this value alone cannot be decoded, or None if it can."""
    try:
        _decode_any(value)
    except RecursionError:
        return f"is nested deeper than {MAX_METADATA_DEPTH} levels"
    except UnicodeDecodeError as error:
        return f"is not valid UTF-8: {error.reason}"
    except msgspec.ValidationError:
        return "has a number out of range"
    except msgspec.DecodeError as error:
        if re.search(rb"\\u[dD][89a-fA-F]", value):
            return f"has a lone surrogate, which is not a character (in the text from byte {offset})"
        return malformed(value, error, offset)
    return None


def malformed(raw: bytes, error: Exception, offset: int = 0) -> str:
    """Describe where a JSON text is malformed; `offset` is the position of `raw` in the request body."""
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return f"is not valid UTF-8: {error.reason}"
    text = str(error).removeprefix("JSON is malformed: ")
    byte = _BYTE.search(text)
    position = int(byte[1]) if byte else len(raw)
    return f"is not valid JSON: {_BYTE.sub('', text).lower()} at byte {offset + position}"
