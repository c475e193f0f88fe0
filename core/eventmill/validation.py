"""The bytes a client sent for one event, checked by every rule and turned into an Event."""

import re
from datetime import datetime
from typing import Annotated, NoReturn

import msgspec
from msgspec import Meta, Raw

from eventmill import rawjson
from eventmill.errors import InvalidEvent, PayloadTooLarge
from eventmill.event import (
    CLOCK_SKEW_MS,
    MAX_EVENT_BYTES,
    MAX_METADATA_DEPTH,
    MAX_TAGS,
    MIN_TIME_MS,
    Event,
    create_event,
)
from eventmill.times import Rfc3339, describe, to_microseconds

Name = Annotated[str, Meta(min_length=1, max_length=256)]
Channel = Annotated[str, Meta(min_length=1, max_length=64)]
Tag = Annotated[str, Meta(min_length=1, max_length=128)]
Metadata = Annotated[Raw, Meta(extra_json_schema={"type": "object"})]
EventId = Annotated[str, Meta(min_length=1, max_length=128)]


class SentEvent(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """An event as a client sends it."""

    event_name: Name
    channel: Channel
    user_id: Name
    timestamp: int | float | Rfc3339
    campaign_id: Annotated[str, Meta(max_length=256)] = ""
    tags: Annotated[tuple[Tag, ...], Meta(max_length=MAX_TAGS)] = ()
    metadata: Metadata = msgspec.field(default_factory=lambda: Raw(b"{}"))
    event_id: EventId | None = None


RULES = {
    "event_name": "must be a string of 1 to 256 characters",
    "channel": "must be a string of 1 to 64 characters",
    "user_id": "must be a string of 1 to 256 characters",
    "timestamp": 'must be unix seconds or an RFC 3339 time such as "2025-12-26T03:00:00Z"',
    "campaign_id": "must be a string of at most 256 characters",
    "tags": f"must be a list of at most {MAX_TAGS} strings of 1 to 128 characters",
    "metadata": "must be a JSON object",
    "event_id": "must be a string of 1 to 128 characters",
}

_decode_event = msgspec.json.Decoder(SentEvent).decode
_decode_any = msgspec.json.Decoder().decode
_PATH = re.compile(r" - at `\$\.?([a-z_]+).*`$")
_UNKNOWN, _MISSING = "Object contains unknown field `", "Object missing required field `"
_BYTE = re.compile(r" \(byte (\d+)\)$")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def parse_event(raw: bytes | Raw, project: str, now_ms: int, oldest_ms: int = MIN_TIME_MS) -> Event:
    """Check and build the event in `raw`, the JSON text as it was sent.

    Raises InvalidEvent, or PayloadTooLarge over 32 KiB, in words that name the field.
    """
    if memoryview(raw).nbytes > MAX_EVENT_BYTES:
        raise PayloadTooLarge(f"the event has {memoryview(raw).nbytes} bytes; at most {MAX_EVENT_BYTES} are taken")
    try:
        sent = _decode_event(raw)
        metadata = bytes(sent.metadata)
        if metadata != b"{}":
            _check_metadata(metadata)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _explain(bytes(raw), error)
    _check_controls(sent)
    return create_event(
        project=project,
        event_name=sent.event_name,
        timestamp_us=_check_time(sent.timestamp, now_ms, oldest_ms),
        channel=sent.channel,
        user_id=sent.user_id,
        received_at_ms=now_ms,
        campaign_id=sent.campaign_id,
        tags=sent.tags,
        metadata=metadata,
        event_id=sent.event_id or "",
    )


def _check_metadata(metadata: bytes) -> None:
    content = _decode_any(metadata)
    if not isinstance(content, dict):
        raise InvalidEvent(f"metadata {RULES['metadata']}", "metadata")
    # Fewer brackets than the limit cannot be nested deeper than the limit.
    if metadata.count(b"{") + metadata.count(b"[") > MAX_METADATA_DEPTH and _depth(content) > MAX_METADATA_DEPTH:
        raise InvalidEvent(f"metadata is nested deeper than {MAX_METADATA_DEPTH} levels", "metadata")


def _depth(value: object) -> int:
    depth, level = 0, [value]
    while level:
        containers = [item for item in level if isinstance(item, dict | list)]
        depth += bool(containers)
        level = [x for item in containers for x in (item.values() if isinstance(item, dict) else item)]
    return depth


def _check_controls(sent: SentEvent) -> None:
    texts = "".join((sent.event_name, sent.channel, sent.user_id, sent.campaign_id, sent.event_id or "", *sent.tags))
    if texts.isprintable() or not _CONTROL.search(texts):
        return
    for field in ("event_name", "channel", "user_id", "campaign_id", "event_id", "tags"):
        value = getattr(sent, field) or ""
        if _CONTROL.search(value if isinstance(value, str) else "".join(value)):
            raise InvalidEvent(f"{field} must not contain control characters", field)


def _check_time(timestamp: float | datetime, now_ms: int, oldest_ms: int) -> int:
    try:
        time_us = to_microseconds(timestamp)
    except ValueError as error:
        raise InvalidEvent(f"timestamp {error}", "timestamp") from None
    if time_us < oldest_ms * 1000:
        raise InvalidEvent(f"timestamp is before {describe(oldest_ms)}, the oldest time taken", "timestamp")
    if time_us > (now_ms + CLOCK_SKEW_MS) * 1000:
        raise InvalidEvent("timestamp is more than 5 minutes in the future", "timestamp")
    return time_us


def _explain(raw: bytes, error: Exception) -> NoReturn:
    """Say what is wrong with an event that could not be decoded. Slow, and only for those."""
    text = str(error)
    if isinstance(error, msgspec.ValidationError) and (broken := _broken_rule(text)):
        raise broken from None
    if not raw.strip():
        raise InvalidEvent("no event was sent: the body is empty") from None
    try:
        for part in rawjson.members(raw):
            problem = _problem(part.value, part.offset)
            if problem is not None:
                field = part.key[1:-1].decode(errors="replace")
                raise InvalidEvent(f"{field} {problem}", field) from None
    except ValueError:
        pass
    raise InvalidEvent(f"the event {malformed(raw, error)}") from None


def _broken_rule(text: str) -> InvalidEvent | None:
    """The rule that msgspec names in `text`, in our words; None where it names no field.

    Only the first two of its sentences quote the client, and they begin in a way that no client can imitate.
    """
    if text.startswith(_UNKNOWN):
        name = text[len(_UNKNOWN) : -1][:64]
        return InvalidEvent(f"unknown field {name!r}: put it under metadata", name)
    if text.startswith(_MISSING):
        name = text[len(_MISSING) : -1]
        return InvalidEvent(f"{name} is required: it {RULES[name]}", name)
    if text.startswith("Expected `object`"):
        return InvalidEvent(f"an event must be one JSON object: e{text[1:].replace('`', '')}")
    path = _PATH.search(text)
    if path is None or path[1] not in RULES:
        return None
    detail = text[: path.start()].replace("`", "")
    return InvalidEvent(f"{path[1]} {RULES[path[1]]}: {detail[0].lower()}{detail[1:]}", path[1])


def _problem(value: bytes, offset: int) -> str | None:
    """What keeps this value from being decoded by itself, or None."""
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
            return f"has a lone surrogate, which is no character (in the text from byte {offset})"
        return malformed(value, error, offset)
    return None


def malformed(raw: bytes, error: Exception, offset: int = 0) -> str:
    """Say where a JSON text breaks; `offset` is where `raw` begins in what the client sent."""
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return f"is not valid UTF-8: {error.reason}"
    text = str(error).removeprefix("JSON is malformed: ")
    byte = _BYTE.search(text)
    position = int(byte[1]) if byte else len(raw)
    return f"is not valid JSON: {_BYTE.sub('', text).lower()} at byte {offset + position}"
