"""Try messages in a process of their own: whatever they do to it, the consumer lives on and knows.

    python -m eventmill.cli.trial < MESSAGES

The child decodes the messages and, where the store can be shared, inserts their events, which changes no number. It
ends with 0 whatever ordinary error there is: those are the consumer's to handle. Any other end is a death.
"""

import asyncio
import contextlib
import sys
from collections.abc import Sequence

import msgspec

from eventmill import frames
from eventmill.event import EventBatch

TRIAL_SECONDS = 60.0


async def survives(bodies: Sequence[bytes]) -> bool:
    """Whether a process survives these messages."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "eventmill.cli.trial",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(TRIAL_SECONDS):
            await child.communicate(msgspec.msgpack.encode(list(bodies)))
    except TimeoutError:
        return True  # slow is not dead
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    return child.returncode == 0


async def _try(bodies: Sequence[bytes]) -> None:
    from eventmill.cli.backends import choose
    from eventmill.settings import Settings, load

    events = EventBatch.merge([pair for body in bodies for pair in frames.decode_frame(body)])
    store = choose(load(Settings)).need_store()
    if store.settings.reach != "process":
        async with store.open() as opened:
            await opened.insert(events)


if __name__ == "__main__":
    with contextlib.suppress(Exception):
        asyncio.run(_try(msgspec.msgpack.decode(sys.stdin.buffer.read(), type=list[bytes])))
