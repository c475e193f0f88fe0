"""Findings: what is wrong with a deployment, or may soon be, each with the command that ends it."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

from pydantic import BaseModel

from eventmill.api.dead_letters import DeadLetterDesk
from eventmill.consumer.letters import DeadLetterFilter
from eventmill.consumer.pause import read_order
from eventmill.interfaces import Queue, Store
from eventmill.times import describe

CHECK_SECONDS = 10.0
MIN_FILES = 4096
OLD_SECONDS = 300.0
MAX_LETTERS = 1000  # that a check reads


class Finding(BaseModel):
    """One part of a deployment: whether it works, and what to do. `fix` is a command, empty if there is none."""

    part: str
    state: Literal["ok", "warning", "failed"]
    message: str = ""
    fix: str = ""


async def check_backends(queue: Queue, store: Store | None, desk: DeadLetterDesk) -> list[Finding]:
    """Return what the queue and the store say about themselves, and what waits in them for an operator."""
    found = await asyncio.gather(
        _check("queue", queue.check),
        _check("dead-letter queue", queue.dead.check),
        _check("store", store.check) if store is not None else _nothing(),
        _check_letters(queue, desk),
        _check_backlog(queue),
        _check_pause(store) if store is not None else _nothing(),
    )
    findings = [finding for findings in found for finding in findings]
    known = {finding.message for finding in findings if finding.part == "queue"}
    return [each for each in findings if each.part != "dead-letter queue" or each.message not in known]


def check_settings(warnings: Sequence[str]) -> list[Finding]:
    """Return a finding for each warning about the settings."""
    return [Finding(part="settings", state="warning", message=each, fix="eventmill settings") for each in warnings]


def check_process() -> list[Finding]:
    """Return what is wrong with this process: its limit of open files."""
    limit = _file_limit()
    if limit is None or limit >= MIN_FILES:
        return [Finding(part="process", state="ok")]
    message = (
        f"the limit of open files is {limit}, so that at most {limit // 3} clients can connect: raise it as root before"
        " the start, or with LimitNOFILE of systemd or ulimits of Docker"
    )
    return [Finding(part="process", state="warning", message=message, fix="ulimit -n 65536")]


async def _check(part: str, check: Callable[[], Awaitable[list[str]]]) -> list[Finding]:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            warnings = await check()
    except TimeoutError:
        return [Finding(part=part, state="failed", message=f"no answer within {CHECK_SECONDS:.0f} s")]
    except Exception as error:
        return [_with_fix(part, "failed", f"{type(error).__name__}: {error}")]
    return [_with_fix(part, "warning", warning) for warning in warnings] or [Finding(part=part, state="ok")]


def _with_fix(part: str, state: Literal["warning", "failed"], text: str) -> Finding:
    """Return a finding; a command in backticks at the end of its text is the fix."""
    message, _, rest = text.rpartition(": run `")
    if message and rest.endswith("`"):
        return Finding(part=part, state=state, message=message, fix=rest.removesuffix("`"))
    return Finding(part=part, state=state, message=text)


async def _check_letters(queue: Queue, desk: DeadLetterDesk) -> list[Finding]:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            depth = await queue.dead.depth()
    except Exception:
        return []  # the check of the queue says why
    count = (depth.ready or 0) + (depth.in_flight or 0)  # in flight: a process holds them, or was killed meanwhile
    if not count:
        return []
    details = ""
    if count <= MAX_LETTERS:
        with contextlib.suppress(Exception):  # for example, a long replay holds them
            async with asyncio.timeout(CHECK_SECONDS / 2):
                details = await _describe_letters(desk)
    message = f"{count} dead letters wait for a decision{details}"
    return [Finding(part="dead letters", state="warning", message=message, fix="eventmill dead list")]


async def _describe_letters(desk: DeadLetterDesk) -> str:
    found = await desk.find(DeadLetterFilter(), 1)
    reasons = ", ".join(f"{count} {reason}" for reason, count in found.reasons.items())
    return f": {reasons}, the newest of {describe(round(found.newest_at * 1000))}" if reasons else ""


async def _check_backlog(queue: Queue) -> list[Finding]:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            depth = await queue.depth()
    except Exception:
        return []
    age = depth.oldest_age_seconds
    if age is None or age < OLD_SECONDS:
        return []
    message = f"the oldest message waits for {age:.0f} s: consumers are missing, paused or too slow, or the store fails"
    return [Finding(part="backlog", state="warning", message=message, fix="eventmill status --watch")]


async def _check_pause(store: Store) -> list[Finding]:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            order = await read_order(store)
    except Exception:  # the check of the store says why
        return []
    if not order.is_pause:
        return []
    why = f": {order.reason}" if order.reason else ""
    message = f"paused since {describe(order.since_ms)} by {order.by or 'a client without a key'}{why}"
    return [Finding(part="consumers", state="warning", message=message, fix="eventmill resume")]


async def _nothing() -> list[Finding]:
    return []


def _file_limit() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if resource.RLIM_INFINITY in (soft, hard) else hard
