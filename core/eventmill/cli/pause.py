"""eventmill pause and resume: let the consumers receive nothing, or receive again."""

import asyncio
import sys
from typing import Any

from eventmill.cli.connection import Target, connect


def order(target: Target, *, is_pause: bool) -> None:
    """Give the order, and print what follows from it."""
    asyncio.run(_post(target, "/pause" if is_pause else "/resume"))
    done = "paused: events are accepted and wait in the queue until `eventmill resume`" if is_pause else "resumed"
    sys.stdout.write(f"the consumers are {done}; each follows within 6 s\n")


async def _post(target: Target, path: str) -> Any:
    async with connect(target) as connection:
        return await connection.post(path)
