"""Every exception of eventmill. Each class says whether to retry or to give up.

EventmillError
├── ConfigurationError          give up: the command exits with code 2
│   └── PluginError             give up: a plugin is missing or broken, or lacks its driver
├── InvalidRequest              give up: the request as a whole is invalid (400)
│   ├── InvalidEvent            give up: one event breaks a rule (400)
│   ├── InvalidQuery            give up: one parameter breaks a rule (400)
│   └── QueryTooLarge           give up, or query less (400)
├── PayloadTooLarge             give up, or send less (413)
├── UnsupportedEncoding         give up, or send another encoding (415)
├── BodyTimeout                 retry: the body did not arrive in time (408)
├── Unauthenticated             give up, or send a key (401)
├── Forbidden                   give up: the key, the origin or the host is not allowed (403)
├── RateLimited                 retry later: the client sent too much (429)
├── Overloaded                  retry: too much work is pending (503)
├── Unavailable                 retry: a service is unavailable (503)
│   ├── QueueUnavailable
│   │   └── QueueMisconfigured
│   └── StoreUnavailable
├── StoreMisconfigured          keep the data, retry, and alert an operator (503)
├── PartialFailure              per body: Refused is permanent, Unknown can be retried
├── RejectedEvents              dead-letter these events, insert the others again
├── UndecodableMessage          give up: dead-letter the message
└── UnknownFrameVersion         release the message and alert: a newer program wrote it

ClientDisconnected is not an EventmillError: there is no client to respond to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class EventmillError(Exception):
    """The base class of all exceptions that eventmill and its plugins raise deliberately."""


class ConfigurationError(EventmillError):
    """A setting is missing or invalid. Give up; the message names the setting and what to do."""


class PluginError(ConfigurationError):
    """A plugin is missing, broken or ambiguous, or lacks its driver. Give up; the message says what to do."""


class InvalidRequest(EventmillError):
    """A request breaks a rule. Give up; `field` names the field or parameter, if one is at fault."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class InvalidEvent(InvalidRequest):
    """An event breaks a rule. Give up on this event only."""


class InvalidQuery(InvalidRequest):
    """A query parameter breaks a rule. Give up."""


class QueryTooLarge(InvalidRequest):
    """The answer exceeds the limits on time, rows or groups. Give up, or query less."""


class PayloadTooLarge(InvalidRequest):
    """A body, an event or a bulk exceeds its limit. Give up, or send less."""


class UnsupportedEncoding(InvalidRequest):
    """The Content-Encoding is not supported. Give up, or send the body uncompressed, or with gzip or zstd."""


class BodyTimeout(EventmillError):
    """The request body did not arrive in time, or the process is shutting down. Retry."""


class Unauthenticated(EventmillError):
    """The request has no key, or one that is unknown, revoked or expired. Give up, or send a key."""


class Forbidden(EventmillError):
    """The client may not do this. Give up."""


class RateLimited(EventmillError):
    """The client sent more than its limit allows. Retry after `retry_seconds`."""

    def __init__(self, per_second: float, retry_seconds: float) -> None:
        super().__init__(f"the limit is {per_second:g} per second: try again in {retry_seconds:.1f} s")
        self.per_second = per_second
        self.retry_seconds = retry_seconds


class Overloaded(EventmillError):
    """Too much work is pending. Retry."""


class Unavailable(EventmillError):
    """A service is unavailable. Retry; connections recover automatically."""


class QueueUnavailable(Unavailable):
    """The queue is unavailable or full. Retry."""


class QueueMisconfigured(QueueUnavailable):
    """The queue answers, but address, credentials or permissions are wrong. Retry, and alert an operator."""


class StoreUnavailable(Unavailable):
    """The store is unavailable. Retry."""


class StoreMisconfigured(EventmillError):
    """The store answers, but its schema or permissions are wrong. Keep the data, retry, and alert an operator."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The queue permanently refuses one body: publishing it again cannot succeed."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """It is unknown whether one body was stored. Publishing it again may duplicate it, but cannot lose it."""

    reason: str


class PartialFailure(EventmillError):
    """Some bodies of one `publish` were not confirmed. All other bodies were confirmed.

    An author raises it in one line: `raise PartialFailure({3: Refused("too large"), 7: Unknown("timeout")})`.
    """

    def __init__(self, failed: Mapping[int, Refused | Unknown]) -> None:
        super().__init__("; ".join(f"body {index}: {why.reason}" for index, why in sorted(failed.items())[:3]))
        self.failed = dict(failed)


class RejectedEvents(EventmillError):
    """The store permanently rejects some events. No event of the batch can be assumed to be stored.

    An author raises it in one line: `raise RejectedEvents("invalid UTF-8", [4])`.

    Args:
        reason: the error of the store, for the dead letter.
        indexes: positions in the batch, or None if the store does not name them.
    """

    def __init__(self, reason: str, indexes: Sequence[int] | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.indexes = indexes


class UndecodableMessage(EventmillError):
    """A queue message is not a frame. Give up: dead-letter the message."""


class UnknownFrameVersion(EventmillError):
    """A newer program wrote this frame. Release it, and upgrade the consumers first."""


class ClientDisconnected(Exception):
    """The client closed the connection before its request was complete or its response was sent."""
