"""eventmill erase: erase the events of a user."""

import asyncio
import json
import sys
from typing import Any

from eventmill.api.users import ErasureResponse
from eventmill.cli.connection import Target, connect
from eventmill.errors import ConfigurationError


def erase(target: Target, user: str, *, is_sure: bool, as_json: bool) -> None:
    """Erase the user and print what was erased. Exit 1 if it must be repeated."""
    if not is_sure:
        raise ConfigurationError("erasing a user cannot be undone: add --yes")
    answer = asyncio.run(_erase(target, user))
    if as_json:
        sys.stdout.write(json.dumps(answer) + "\n")
    else:
        sys.stdout.write(f"erased {answer['events']} stored events and {answer['dead_lettered']} in dead letters\n")
    if answer["unreadable"]:
        sys.stderr.write(f"{answer['unreadable']} dead letters cannot be read: see `eventmill dead list`\n")
    if not answer["is_complete"]:
        sys.stderr.write("a part was held by another process: run the command again\n")
        sys.exit(1)


async def _erase(target: Target, user: str) -> Any:
    async with connect(target) as connection:
        return await connection.delete("/users", ErasureResponse, user_id=user)
