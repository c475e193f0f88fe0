"""A store on ClickHouse: a server over HTTP, or the embedded engine chDB."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from eventmill import Store, StoreBackend, hookimpl
from eventmill_store_clickhouse.settings import ClickHouseStoreSettings


@asynccontextmanager
async def open_clickhouse_store(settings: ClickHouseStoreSettings) -> AsyncIterator[Store]:
    from eventmill_store_clickhouse.clickhouse_store import ClickHouseStore
    from eventmill_store_clickhouse.connection import Connection

    address = settings.address
    if address.scheme == "chdb":
        from eventmill_store_clickhouse.embedded import EmbeddedConnection

        connection: Connection = EmbeddedConnection(Path(address.path))
    else:
        from eventmill_store_clickhouse.server import ServerConnection

        connection = ServerConnection(address, settings.timeout_seconds)
    try:
        yield ClickHouseStore(connection)
    finally:
        await connection.close()


backend = StoreBackend(
    "clickhouse",
    ClickHouseStoreSettings,
    open_clickhouse_store,
    install="pip install 'eventmill[chdb]' (embedded) or 'eventmill[clickhouse]' (a server)",
)


@hookimpl
def eventmill_store_backends() -> list[StoreBackend]:
    return [backend]
