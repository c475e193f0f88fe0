"""Suites that check whether a backend keeps the contract, and events to test with. Needs pytest.

One subclass and one fixture are the whole test module of a plugin:

    class TestNatsQueue(QueueContract):
        backend = acme_nats.backend

        @pytest.fixture
        def settings(self):
            return acme_nats.Settings(url=URL, subject=f"test-{uuid4().hex}", lease_seconds=1)

`simulate` runs delivery on a virtual clock over a queue and a store that misbehave, with layers of the plugin's own
around them: `assert not simulate(seed, wrap_queue=Encrypted).violations`.
"""

import pytest

pytest.register_assert_rewrite("eventmill.testing.queue_contract", "eventmill.testing.store_contract")

from eventmill.testing.events import make_event, make_events  # noqa: E402 (after the rewriting was asked for)
from eventmill.testing.queue_contract import QueueContract  # noqa: E402
from eventmill.testing.simulation import simulate  # noqa: E402
from eventmill.testing.store_contract import StoreContract  # noqa: E402

__all__ = ["QueueContract", "StoreContract", "make_event", "make_events", "simulate"]
