"""eventmill migrate: create or upgrade what the backends need."""

import asyncio
import sys

from eventmill.cli.backends import Choice, choose
from eventmill.cli.output import print_table, start_log
from eventmill.settings import Settings, load


def migrate(*, show: bool) -> None:
    settings = load(Settings)
    start_log(settings.log_level)
    choice = choose(settings)
    if not show:
        print_table(("part", "backend", "state"), asyncio.run(_migrate(choice)))
        return
    for chosen in (choice.queue, choice.store):
        if chosen is not None:
            sys.stdout.write(chosen.settings.statements() or f"-- {chosen.kind} {chosen.backend.name}: nothing to do\n")


async def _migrate(choice: Choice) -> list[tuple[str, str, str]]:
    rows = []
    for chosen in (choice.queue, choice.store):
        if chosen is not None:
            async with chosen.open() as opened:
                await opened.migrate()
            rows.append((chosen.kind, chosen.backend.name, "up to date"))
    return rows
