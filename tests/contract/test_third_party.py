"""Backends from outside keep the contract too, and the suites work for those who write them."""

from pathlib import Path

import pytest

import eventmill_store_jsonl
from eventmill.testing import StoreContract


class TestJsonlStore(StoreContract):
    backend = eventmill_store_jsonl.backend

    @pytest.fixture
    def settings(self, tmp_path: Path) -> eventmill_store_jsonl.Settings:
        return eventmill_store_jsonl.Settings(path=tmp_path / "events.jsonl")
