"""The suite that every queue must pass."""

from eventmill.testing.queue_contract.acking import QueueAcking
from eventmill.testing.queue_contract.fairness import QueueFairness
from eventmill.testing.queue_contract.leasing import QueueLeasing
from eventmill.testing.queue_contract.operating import QueueOperating
from eventmill.testing.queue_contract.outages import QueueOutages
from eventmill.testing.queue_contract.publishing import QueuePublishing

__all__ = [
    "QueueAcking",
    "QueueContract",
    "QueueFairness",
    "QueueLeasing",
    "QueueOperating",
    "QueueOutages",
    "QueuePublishing",
]


class QueueContract(QueuePublishing, QueueLeasing, QueueAcking, QueueFairness, QueueOperating, QueueOutages):
    """The suite for queues. Subclass it, name the `backend`, and define the fixture `settings` with 1 s leases.

    Also define the fixtures `unreachable_settings` and `server` for a queue on a server.
    """
