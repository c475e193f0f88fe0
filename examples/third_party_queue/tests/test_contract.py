"""The queue keeps eventmill's contract."""

from pathlib import Path

import pytest

import eventmill_queue_folder
from eventmill.testing import QueueContract


class TestFolderQueue(QueueContract):
    backend = eventmill_queue_folder.backend

    @pytest.fixture
    def settings(self, tmp_path: Path) -> eventmill_queue_folder.Settings:
        return eventmill_queue_folder.Settings(path=tmp_path / "queue", lease_seconds=1)
