"""The SQLite queue keeps the queue's contract."""

from pathlib import Path

import pytest

import eventmill_queue_sqlite
from eventmill.testing import QueueContract
from eventmill_queue_sqlite.settings import SqliteQueueSettings


class TestSqliteQueue(QueueContract):
    backend = eventmill_queue_sqlite.backend

    @pytest.fixture
    def settings(self, tmp_path: Path) -> SqliteQueueSettings:
        return SqliteQueueSettings(path=tmp_path / "queue.db", lease_seconds=1)
