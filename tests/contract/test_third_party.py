"""The example packages keep the contract, through the door that every author uses."""

from pathlib import Path

import pytest

import eventmill_queue_folder
import eventmill_store_jsonl
from eventmill.testing import QueueContract, StoreContract


class TestJsonlStore(StoreContract):
    backend = eventmill_store_jsonl.backend

    @pytest.fixture
    def settings(self, tmp_path: Path) -> eventmill_store_jsonl.Settings:
        return eventmill_store_jsonl.Settings(path=tmp_path / "events.jsonl")


class TestFolderQueue(QueueContract):
    backend = eventmill_queue_folder.backend

    @pytest.fixture
    def settings(self, tmp_path: Path) -> eventmill_queue_folder.Settings:
        return eventmill_queue_folder.Settings(path=tmp_path / "queue", lease_seconds=1)
