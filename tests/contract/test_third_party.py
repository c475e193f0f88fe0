"""Backends from outside keep the contract too, and the suites work for those who write them."""

from pathlib import Path

import pytest

import eventmill_spool
import eventmill_store_jsonl
from eventmill.testing import QueueContract, StoreContract


class TestSpoolQueue(QueueContract):
    backend = eventmill_spool.backend

    @pytest.fixture
    def settings(self, tmp_path: Path) -> eventmill_spool.Settings:
        return eventmill_spool.Settings(path=tmp_path / "spool.db", lease_seconds=1)


class TestJsonlStore(StoreContract):
    backend = eventmill_store_jsonl.backend

    @pytest.fixture
    def settings(self, tmp_path: Path) -> eventmill_store_jsonl.Settings:
        return eventmill_store_jsonl.Settings(path=tmp_path / "events.jsonl")
