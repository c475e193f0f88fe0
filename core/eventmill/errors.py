"""Every exception of eventmill. Each class says whether to retry or to give up.

EventmillError
├── ConfigurationError          give up: start-up ends with exit code 2
│   └── PluginError             give up: a plugin is missing, broken or lacks its driver
├── InvalidRequest              give up: the request is wrong as a whole (400)
│   ├── InvalidEvent            give up: one event breaks a rule (400)
│   ├── InvalidQuery            give up: one parameter breaks a rule (400)
│   └── QueryTooLarge           give up, or ask for less (400)
├── PayloadTooLarge             give up, or send less (413)
├── UnsupportedEncoding         give up, or send it plain (415)
├── BodyTimeout                 retry: the body did not arrive (408)
├── Overloaded                  retry: memory for pending work is used up (503)
├── Unavailable                 retry: a service is away (503)
│   ├── QueueUnavailable
│   │   └── QueueMisconfigured
│   └── StoreUnavailable
├── StoreMisconfigured          retry and alarm: keep the data, somebody must repair the store (503)
├── PartialFailure              look at each index: Refused is final, Unknown may be retried
├── RejectedEvents              give up on these events, dead-letter them, insert the others
├── UndecodableMessage          give up: dead-letter the message whole
└── UnknownFrameVersion         release it and alarm: a newer program wrote it
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class EventmillError(Exception):
    """The root: catching it catches everything eventmill and its plugins raise on purpose."""


class ConfigurationError(EventmillError):
    """A setting is missing or wrong. Give up; the message names the setting and the cure."""


class PluginError(ConfigurationError):
    """A plugin is missing, broken, ambiguous or lacks its driver. Give up; the message names the cure."""


class InvalidRequest(EventmillError):
    """What a client sent breaks a rule. Give up; `field` names the part at fault, where there is one."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class InvalidEvent(InvalidRequest):
    """An event breaks a rule. Give up on this event alone."""


class InvalidQuery(InvalidRequest):
    """A question's parameter breaks a rule. Give up."""


class QueryTooLarge(InvalidRequest):
    """The answer would take more time, rows or groups than one question may. Give up, or ask for less."""


class PayloadTooLarge(InvalidRequest):
    """A body, an event or a bulk is over its limit. Give up, or send less."""


class UnsupportedEncoding(InvalidRequest):
    """The body's Content-Encoding is unknown. Give up, or send it plain, gzip or zstd."""


class BodyTimeout(EventmillError):
    """The request's body did not arrive in time, or the process leaves. Retry."""


class Overloaded(EventmillError):
    """The memory for pending work is used up. Retry."""


class Unavailable(EventmillError):
    """A service is away. Retry; it heals by itself."""


class QueueUnavailable(Unavailable):
    """The queue is away or full. Retry."""


class QueueMisconfigured(QueueUnavailable):
    """The queue answers, but the address, the credentials or the rights are wrong. Retry, and alarm somebody."""


class StoreUnavailable(Unavailable):
    """The store is away. Retry."""


class StoreMisconfigured(EventmillError):
    """The store answers, but its schema or rights are wrong. Keep the data, retry, and alarm somebody."""


@dataclass(frozen=True, slots=True)
class Refused:
    """One body was refused for good: publishing it again cannot succeed."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nobody knows whether one body was kept: publishing it again may duplicate it, never lose it."""

    reason: str


class PartialFailure(EventmillError):
    """Some bodies of one `publish` were not confirmed; those whose index is not in `failed` were."""

    def __init__(self, failed: Mapping[int, Refused | Unknown]) -> None:
        super().__init__("; ".join(f"body {index}: {why.reason}" for index, why in sorted(failed.items())[:3]))
        self.failed = dict(failed)


class RejectedEvents(EventmillError):
    """The store will never take these events. Nothing of the batch may be assumed stored.

    Args:
        reason: what the store said, for the dead letter.
        indexes: positions in the batch, or None when the store cannot tell which ones.
    """

    def __init__(self, reason: str, indexes: Sequence[int] | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.indexes = indexes


class UndecodableMessage(EventmillError):
    """A queue message is not a frame. Give up: dead-letter it whole."""


class UnknownFrameVersion(EventmillError):
    """A newer program wrote this frame. Release it, and upgrade the consumers first."""
