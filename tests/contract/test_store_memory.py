"""The memory store keeps the store's contract."""

import pytest

import eventmill_store_memory
from eventmill.testing import StoreContract
from eventmill_store_memory.settings import MemoryStoreSettings


class TestMemoryStore(StoreContract):
    backend = eventmill_store_memory.backend

    @pytest.fixture
    def settings(self) -> MemoryStoreSettings:
        return MemoryStoreSettings()
