"""Suites that check whether a backend keeps the contract, and events to test with. They need pytest.

A plugin's test module is one subclass and one fixture:

    class TestNatsQueue(QueueContract):
        backend = acme_nats.backend

        @pytest.fixture
        def settings(self):
            return acme_nats.Settings(url=URL, subject=f"test-{uuid4().hex}", lease_seconds=1)

For a backend on a server, also define the fixtures `unreachable_settings` and `server` (a `Server`), see
docs/plugins.md.

`simulate` runs delivery on a virtual clock over a queue and a store that misbehave. It can put the plugin's own layers
around them: `assert not simulate(seed, wrap_queue=Encrypted).violations`.
"""

import pytest

pytest.register_assert_rewrite("eventmill.testing.queue_contract", "eventmill.testing.store_contract")

from eventmill.testing.contract import Server  # noqa: E402 (after assert rewriting is registered)
from eventmill.testing.events import make_event, make_events  # noqa: E402
from eventmill.testing.queue_contract import QueueContract  # noqa: E402
from eventmill.testing.simulation import simulate  # noqa: E402
from eventmill.testing.store_contract import StoreContract  # noqa: E402

__all__ = ["QueueContract", "Server", "StoreContract", "make_event", "make_events", "simulate"]
