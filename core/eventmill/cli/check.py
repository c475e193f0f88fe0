"""eventmill check: what is wrong with a deployment, and the command that ends each trouble."""

import asyncio
import json
import sys
from typing import Any

from eventmill.api.checks import Finding
from eventmill.cli.connection import Target, connect
from eventmill.cli.output import print_table

_COLUMNS = ("part", "state", "finding", "fix")


def check(target: Target, *, as_json: bool, is_strict: bool) -> None:
    """Print the findings; exit 1 if a part failed, or with a warning if it is strict."""
    findings = asyncio.run(_check(target))
    if as_json:
        sys.stdout.write(json.dumps(findings) + "\n")
    else:
        print_table(_COLUMNS, [(each["part"], _state(each), each["message"], each["fix"]) for each in findings])
    wrong = ("failed", "warning") if is_strict else ("failed",)
    if any(each["state"] in wrong for each in findings):
        sys.exit(1)


async def _check(target: Target) -> Any:
    async with connect(target) as connection:
        return await connection.get("/check", list[Finding])


def _state(finding: Any) -> str:
    return "FAILED" if finding["state"] == "failed" else str(finding["state"])
