"""The connection to the server: two pools, no retries, and no command that is cancelled while it runs."""

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from eventmill import ConfigurationError, QueueMisconfigured, QueueUnavailable

T = TypeVar("T")

_OLDEST_VERSION = (6, 2)
CONNECT_SECONDS = 1.5
ANSWER_SECONDS = 4.0
_COMMIT_BYTES = 2 * 1024 * 1024  # the size of a commit of the API; the check requires memory for one
_NEARLY_FULL = 0.8
BLOCK_SECONDS = 2.0  # the longest blocking read; its socket timeout is longer
_DENIED = (AuthenticationError, AuthenticationWrongNumberOfArgsError, AuthorizationError, NoPermissionError)
_WRONG = (
    "WRONGTYPE",
    "unknown command",
    "DB index",
    "NOAUTH",
    "no password is set",
    "Client sent AUTH",
    "can't run this command",
)


class Connection:
    """Clients of one server. They connect on demand, and again after every failure."""

    def __init__(self, url: str) -> None:
        self.commands = _client(url, ANSWER_SECONDS)
        self.reads = _client(url, BLOCK_SECONDS + 5)
        self._running: set[asyncio.Task[Any]] = set()

    async def run(self, command: Awaitable[T], seconds: float = ANSWER_SECONDS + CONNECT_SECONDS) -> T:
        """Wait up to `seconds` for a command. It continues after a timeout: an unread reply would lose messages.

        Raise QueueUnavailable, and ResponseError for errors that the caller handles.
        """
        task = asyncio.ensure_future(command)
        self._running.add(task)
        task.add_done_callback(self._forget)
        done, _ = await asyncio.wait([task], timeout=max(0.0, seconds))
        if not done:
            raise QueueUnavailable("Redis did not respond in time")
        with explained():
            return task.result()

    async def close(self) -> None:
        if self._running:
            await asyncio.wait(self._running)
        await self.commands.aclose()
        await self.reads.aclose()

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()


@contextmanager
def explained() -> Iterator[None]:
    """Translate errors of the driver to QueueUnavailable or QueueMisconfigured, except NOGROUP."""
    try:
        yield
    except (RedisError, OSError) as error:
        if is_groupless(error):
            raise
        raise explain(error) from error


def explain(error: Exception) -> QueueUnavailable:
    """Return the exception for an error of the driver."""
    text = f"Redis: {error}"
    if isinstance(error, _DENIED) or (isinstance(error, ResponseError) and any(word in text for word in _WRONG)):
        return QueueMisconfigured(text)
    return QueueUnavailable(text)


def is_groupless(error: Exception) -> bool:
    """Return whether the stream or its group does not exist, on a new server or after a flush."""
    return isinstance(error, ResponseError) and "NOGROUP" in str(error)


def _client(url: str, answer_seconds: float) -> Redis:
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=32,
            timeout=CONNECT_SECONDS,
            protocol=2,
            socket_connect_timeout=CONNECT_SECONDS,
            socket_timeout=answer_seconds,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),
        )
        pool.make_connection()  # validates the options without connecting
    except (ValueError, TypeError, RedisError) as error:
        raise ConfigurationError(f"EVENTMILL_QUEUE_REDIS_URL: {error}") from error
    return Redis.from_pool(pool)


def _set(setting: str) -> str:
    """Return how an operator changes a setting of the server for good."""
    call = 'redis-cli -u "$EVENTMILL_QUEUE_REDIS_URL" CONFIG'
    return f"set {setting} in redis.conf: run `{call} SET {setting} && {call} REWRITE`"


def warnings_of(info: dict[str, Any]) -> list[str]:
    """Return warnings about the server's settings that endanger messages.

    Raise QueueMisconfigured if it is too old, and QueueUnavailable if it is out of memory.
    """
    version = tuple(int(part) for part in str(info["redis_version"]).split(".")[:2])
    if version < _OLDEST_VERSION:
        raise QueueMisconfigured(f"Redis {info['redis_version']} is too old: 6.2 or newer is required")
    limit, policy = info.get("maxmemory", 0), str(info.get("maxmemory_policy", ""))
    used = info["used_memory"] - info.get("mem_not_counted_for_evict", 0)
    may_evict = policy.startswith("allkeys")  # such a server always uses all of its memory
    if limit and not may_evict and used > limit - _COMMIT_BYTES:
        raise QueueUnavailable("Redis is out of memory (maxmemory)")
    warnings = []
    if not info.get("aof_enabled"):
        warnings.append(
            f"Redis writes no append-only file, and loses what was not saved when it stops: {_set('appendonly yes')}"
        )
    if limit and policy != "noeviction":
        warnings.append(f"Redis may evict messages ({policy}): {_set('maxmemory-policy noeviction')}")
    if limit and not may_evict and used > limit * _NEARLY_FULL:
        warnings.append(f"Redis uses {used * 100 // limit}% of its memory (maxmemory)")
    return warnings
