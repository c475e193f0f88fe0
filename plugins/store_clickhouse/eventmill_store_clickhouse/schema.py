"""Schema: creates, upgrades and checks the tables."""

from collections.abc import Mapping

from clickhouse_connect.driver.exceptions import ClickHouseError

from eventmill import StoreMisconfigured, describe_skew
from eventmill_store_clickhouse import failures, migrations
from eventmill_store_clickhouse.statements import Statements

_TABLES = """
SELECT name, toUnixTimestamp64Milli(now64(3)) FROM system.tables WHERE database = currentDatabase()
"""


class Schema:
    """The tables of the store. All methods raise StoreUnavailable and StoreMisconfigured."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    async def migrate(self, retention_days: int | None = None) -> None:
        """Create or upgrade the tables, and set the retention."""
        await self._statements.execute(migrations.BOOKKEEPING)
        applied = await self._applied()
        _refuse_newer(applied)
        for migration in migrations.MIGRATIONS:
            if migration.number not in applied:
                for statement in migration.statements:
                    await self._statements.execute(statement)
                await self._statements.execute(
                    migrations.RECORD.format(number=migration.number, readable_from=migration.readable_from)
                )
        engine = await self._statements.engine()
        if "MergeTree" in engine:  # on a cluster the table is Distributed, see cluster.sql
            for statement in migrations.missing_columns(await self._columns()):
                await self._statements.execute(statement)
            await self._set_retention(engine, retention_days)

    async def check(self) -> list[str]:
        """Return a warning if the clock of the server is wrong; raise StoreMisconfigured for another schema."""
        applied = await self._applied()
        if not applied:
            raise StoreMisconfigured("the schema does not exist: run `eventmill migrate`")
        if max(applied) < migrations.NEWEST:
            raise StoreMisconfigured(
                f"the schema has version {max(applied)}, but {migrations.NEWEST} is required: run `eventmill migrate`"
            )
        _refuse_newer(applied)
        tables = {str(name): float(now_ms) for name, now_ms in await self._statements.lookup(_TABLES)}
        if missing := {"events", "erasures"} - tables.keys():
            raise StoreMisconfigured(
                f"the table {', '.join(sorted(missing))} does not exist: it was removed or renamed"
            )
        if migrations.missing_columns(await self._columns()):
            raise StoreMisconfigured("the table events lacks a column: run `eventmill migrate`")
        return describe_skew(tables["events"] / 1000, "the ClickHouse server")

    async def _applied(self) -> dict[int, int]:
        """Return the applied migrations, each with the oldest migration whose programs can still read the schema."""
        sql = "SELECT number, max(readable_from) FROM eventmill_migrations GROUP BY number"
        try:
            rows = await self._statements.lookup(sql)
        except StoreMisconfigured as error:
            if (
                isinstance(error.__cause__, ClickHouseError)
                and failures.code_of(error.__cause__) == failures.UNKNOWN_TABLE
            ):
                return {}
            raise
        return {int(number): int(readable_from) for number, readable_from in rows}

    async def _columns(self) -> set[str]:
        """Return the names of the columns of the table events."""
        sql = "SELECT name FROM system.columns WHERE database = currentDatabase() AND table = 'events'"
        return {name for (name,) in await self._statements.lookup(sql)}

    async def _set_retention(self, engine: str, days: int | None) -> None:
        """Change the TTL of the table if it differs from the retention."""
        wanted = migrations.ttl(days)
        if wanted is None and " TTL " in engine:
            try:
                await self._statements.execute("ALTER TABLE events REMOVE TTL")
            except StoreMisconfigured:
                if " TTL " in await self._statements.engine():  # else another program removed it meanwhile
                    raise
        elif wanted is not None and f"TTL {wanted}" not in engine:
            await self._statements.execute(f"ALTER TABLE events MODIFY TTL {wanted}")


def _refuse_newer(applied: Mapping[int, int]) -> None:
    if max(applied.values(), default=0) > migrations.NEWEST:
        raise StoreMisconfigured("a newer program created the schema: upgrade this one")
