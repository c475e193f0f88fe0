"""eventmill migrate: create or upgrade what the chosen backends need."""

import asyncio
import sys

from eventmill.cli.output import print_table
from eventmill.runtime.backends import Choice, choose
from eventmill.runtime.logs import start_log
from eventmill.settings import Settings, load


def migrate(*, show: bool) -> None:
    settings = load(Settings)
    start_log(settings.log_level)
    choice = choose(settings)
    if not show:
        print_table(("part", "backend", "state"), asyncio.run(_migrate(choice, settings.retention_days)))
        return
    for chosen in (choice.queue, choice.store):
        if chosen is not None:
            nothing = f"-- {chosen.kind} {chosen.backend.name}: nothing to do\n"
            sys.stdout.write(chosen.settings.statements(settings.retention_days) or nothing)


async def _migrate(choice: Choice, retention_days: int | None) -> list[tuple[str, str, str]]:
    async with choice.queue.open() as queue:
        await queue.migrate()
    rows = [("queue", choice.queue.backend.name, "up to date")]
    if choice.store is not None:
        async with choice.store.open() as store:
            await store.migrate(retention_days)
        rows.append(("store", choice.store.backend.name, "up to date"))
    return rows
