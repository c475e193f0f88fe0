"""The Redis queue keeps the queue's contract, on a real server."""

from collections.abc import Iterator
from uuid import uuid4

import pytest
from pydantic import SecretStr

import eventmill_queue_redis
from eventmill.testing import QueueContract
from eventmill_queue_redis.settings import RedisQueueSettings
from support import services


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with services.redis_url(tmp_path_factory.mktemp("redis")) as url:
        yield url


class TestRedisQueue(QueueContract):
    backend = eventmill_queue_redis.backend

    @pytest.fixture
    def settings(self, url: str) -> RedisQueueSettings:
        return RedisQueueSettings(url=SecretStr(url), name=f"test-{uuid4().hex}", lease_seconds=1)

    @pytest.fixture
    def unreachable_settings(self) -> RedisQueueSettings:
        return RedisQueueSettings(url=SecretStr("redis://127.0.0.1:1/0"), lease_seconds=1)
