"""The outage tests of the suites, on servers that the tests may kill: redis-server, and the ClickHouse gateway."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

import eventmill_queue_redis
import eventmill_store_clickhouse
from eventmill.testing import Server
from eventmill.testing.queue_contract import QueueOutages
from eventmill.testing.store_contract import StoreOutages
from eventmill_queue_redis.settings import RedisQueueSettings
from eventmill_store_clickhouse.settings import ClickHouseStoreSettings
from support import services
from support.control import ProcessControl


class TestRedisOutages(QueueOutages):
    backend = eventmill_queue_redis.backend

    @pytest.fixture
    def redis(self, tmp_path: Path) -> Iterator[services.RedisServer]:
        with services.running_redis(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
            yield server

    @pytest.fixture
    def settings(self, redis: services.RedisServer) -> RedisQueueSettings:
        return RedisQueueSettings(url=SecretStr(redis.url), lease_seconds=1)

    @pytest.fixture
    def server(self, redis: services.RedisServer) -> Server:
        return ProcessControl(redis)


class TestClickHouseOutages(StoreOutages):
    backend = eventmill_store_clickhouse.backend

    @pytest.fixture
    def clickhouse(self, tmp_path: Path) -> Iterator[services.ClickHouse]:
        with services.running_clickhouse(tmp_path / "chdb") as server:
            yield server

    @pytest.fixture
    def settings(self, clickhouse: services.ClickHouse) -> ClickHouseStoreSettings:
        return ClickHouseStoreSettings(url=SecretStr(clickhouse.url), timeout_seconds=5)

    @pytest.fixture
    def server(self, clickhouse: services.ClickHouse) -> Server:
        return ProcessControl(clickhouse)
