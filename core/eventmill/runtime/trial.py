"""Process quarantined messages in a subprocess, so that a crash does not end the consumer.

    python -m eventmill.runtime.trial FOLDER < MESSAGES

The subprocess opens the store that EVENTMILL_STORE names, or a scratch store in FOLDER if that store lives in one
process, and prints "ready". Then it reads the messages, inserts their events, and prints "done". An error is not a
crash: the consumer handles it later. A subprocess that ends before it is ready proves nothing about the messages.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import BinaryIO

import msgspec

from eventmill import frames
from eventmill.consumer.trials import Verdict
from eventmill.errors import RejectedEvents
from eventmill.event import Event, EventBatch
from eventmill.interfaces import Store
from eventmill.plugins import load_plugins, open_backend
from eventmill.runtime.backends import Chosen
from eventmill.settings import Settings, load

log = logging.getLogger(__name__)

START_SECONDS = 60.0
TRIAL_SECONDS = 60.0
_READY, _DONE = b"ready\n", b"done\n"
_LOG = "log"


async def try_messages(
    store: Chosen[Store],
    bodies: Sequence[bytes],
    *,
    start_seconds: float = START_SECONDS,
    trial_seconds: float = TRIAL_SECONDS,
) -> Verdict:
    """Return whether a subprocess survives these messages. Never raise, except when cancelled."""
    try:
        with tempfile.TemporaryDirectory(prefix="eventmill-trial-", ignore_cleanup_errors=True) as folder:
            async with _child(store, Path(folder)) as child:
                if await _next_line(child, start_seconds) == _READY:
                    return await _verdict(child, bodies, trial_seconds)
            log.warning("cannot start a trial subprocess: %s", _log_end(Path(folder)))
    except Exception as error:  # for example no memory, no free process or no disk space
        log.warning("cannot start a trial subprocess (%s): %s", type(error).__name__, error)
    return Verdict.UNKNOWN


@contextlib.asynccontextmanager
async def _child(store: Chosen[Store], folder: Path) -> AsyncIterator[Process]:
    """Yield the subprocess, and kill it in the end."""
    with (folder / _LOG).open("wb") as output:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "eventmill.runtime.trial", str(folder)),
            env=os.environ | store.environment(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=output,
        )
    try:
        yield child
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()


async def _verdict(child: Process, bodies: Sequence[bytes], seconds: float) -> Verdict:
    assert child.stdin is not None  # noqa: S101 (it is a pipe)
    child.stdin.write(msgspec.msgpack.encode(list(bodies)))
    child.stdin.close()
    line = await _next_line(child, seconds)
    if line is None:
        return Verdict.UNKNOWN
    return Verdict.SURVIVED if line == _DONE else Verdict.DIED


async def _next_line(child: Process, seconds: float) -> bytes | None:
    """Return the next line of the subprocess, b"" if it has ended, or None on a timeout."""
    assert child.stdout is not None  # noqa: S101 (it is a pipe)
    try:
        async with asyncio.timeout(seconds):
            return await child.stdout.readline()
    except TimeoutError:
        return None


def _log_end(folder: Path) -> str:
    return "".join((folder / _LOG).read_text(errors="replace").splitlines()[-1:]) or "it logged nothing"


# In the subprocess


async def _try(folder: Path, output: BinaryIO) -> None:
    async with AsyncExitStack() as opened:
        store = await _open(opened, folder / "store")
        output.write(_READY)
        batch = _decode(msgspec.msgpack.decode(sys.stdin.buffer.read(), type=list[bytes]))
        if store is not None:
            with contextlib.suppress(Exception):
                await _insert(store, batch)
        output.write(_DONE)


async def _open(opened: AsyncExitStack, folder: Path) -> Store | None:
    """Return a store for the events, or None if the chosen one lives in one process and has no scratch store."""
    backend = load_plugins().store(load(Settings).store or "")
    settings = load(backend.settings)
    scratch = settings.scratch(folder)
    if scratch is None and settings.reach == "process":
        return None
    store = await opened.enter_async_context(open_backend(backend, scratch or settings))
    if scratch is not None:
        await store.migrate()
    await store.check()
    return store


def _decode(bodies: Sequence[bytes]) -> EventBatch:
    """Return the events of all messages that can be decoded."""
    events: list[Event] = []
    for body in bodies:
        with contextlib.suppress(Exception):
            events += [event for event, _ in frames.decode_frame(body)]
    return EventBatch.of(events)


async def _insert(store: Store, batch: EventBatch) -> None:
    """Insert every event that the store does not reject."""
    parts = [batch] if len(batch) else []
    while parts:
        part = parts.pop()
        try:
            await store.insert(part)
        except RejectedEvents:
            if len(part) > 1:
                middle = len(part) // 2
                parts += [part.take(range(middle)), part.take(range(middle, len(part)))]


def main() -> None:
    """Run the subprocess."""
    # Only the messages may end this process: a signal to stop reaches the consumer, which kills it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.alarm(int(START_SECONDS + TRIAL_SECONDS) * 2)  # ends this process if the consumer was killed
    with os.fdopen(os.dup(1), "wb", buffering=0) as output:
        os.dup2(2, 1)  # output of libraries must not reach the consumer
        asyncio.run(_try(Path(sys.argv[1]), output))
    shutil.rmtree(sys.argv[1], ignore_errors=True)  # the consumer removes the folder unless it was killed


if __name__ == "__main__":
    main()
