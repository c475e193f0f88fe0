"""The ClickHouse store keeps the store's contract, on the embedded engine and over HTTP."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

import eventmill_store_clickhouse
from eventmill.testing import StoreContract
from eventmill_store_clickhouse.settings import ClickHouseStoreSettings
from support import services


class TestEmbeddedClickHouse(StoreContract):
    backend = eventmill_store_clickhouse.backend

    @pytest.fixture
    def settings(self, tmp_path: Path) -> ClickHouseStoreSettings:
        return ClickHouseStoreSettings(url=SecretStr(f"chdb://{tmp_path}/chdb"))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with services.clickhouse_url(tmp_path_factory.mktemp("clickhouse") / "chdb") as url:
        yield url


class TestClickHouseServer(StoreContract):
    backend = eventmill_store_clickhouse.backend

    @pytest.fixture
    def settings(self, url: str) -> Iterator[ClickHouseStoreSettings]:
        with services.clickhouse_database(url) as database_url:
            yield ClickHouseStoreSettings(url=SecretStr(database_url))

    @pytest.fixture
    def unreachable_settings(self) -> ClickHouseStoreSettings:
        return ClickHouseStoreSettings(url=SecretStr("http://127.0.0.1:9/"))
