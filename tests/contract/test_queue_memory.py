"""The memory queue keeps the queue's contract."""

import pytest

import eventmill_queue_memory
from eventmill.testing import QueueContract
from eventmill_queue_memory.settings import MemoryQueueSettings


class TestMemoryQueue(QueueContract):
    backend = eventmill_queue_memory.backend

    @pytest.fixture
    def settings(self) -> MemoryQueueSettings:
        return MemoryQueueSettings(lease_seconds=1)
