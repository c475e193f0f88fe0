"""eventmill sql: run a SELECT statement in the store."""

import asyncio
import json
import sys
from typing import Any

from eventmill.api.sql import SqlResponse
from eventmill.cli.connection import Target, connect
from eventmill.cli.output import print_answer


def sql(target: Target, statement: str, *, as_json: bool, as_csv: bool) -> None:
    """Print the rows of a statement; `-` reads it from standard input."""
    text = sys.stdin.read() if statement == "-" else statement
    answer = asyncio.run(_ask(target, text))
    rows = [list(map(_text, row)) for row in answer["rows"]]
    print_answer(answer["columns"], rows, answer, as_json=as_json, as_csv=as_csv)
    if not answer["is_complete"]:
        sys.stderr.write("eventmill: there are more rows: use LIMIT and OFFSET, or group them\n")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


async def _ask(target: Target, statement: str) -> Any:
    async with connect(target) as connection:
        return (await connection.post("/sql", SqlResponse, {"sql": statement}))[0]
