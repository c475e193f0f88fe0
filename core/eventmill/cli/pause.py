"""eventmill pause and resume: let the consumers receive nothing, or receive again."""

import asyncio
import sys

from eventmill.api.operator import PauseResponse
from eventmill.cli.connection import Target, connect


def pause(target: Target, reason: str | None) -> None:
    """Pause the consumers, and say what follows from it."""
    asyncio.run(_post(target, "/pause", {"reason": reason or ""}))
    sys.stdout.write(
        "the consumers pause within 11 s: events are accepted and wait in the queue until `eventmill resume`\n"
    )


def resume(target: Target) -> None:
    """Resume the consumers."""
    asyncio.run(_post(target, "/resume", None))
    sys.stdout.write("the consumers resume within 11 s\n")


async def _post(target: Target, path: str, body: dict[str, str] | None) -> None:
    async with connect(target) as connection:
        await connection.post(path, PauseResponse, body)
