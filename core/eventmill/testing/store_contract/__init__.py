"""The suite that every store must pass."""

from eventmill.testing.store_contract.erasing import StoreErasing
from eventmill.testing.store_contract.identity import StoreIdentity
from eventmill.testing.store_contract.inserting import StoreInserting
from eventmill.testing.store_contract.operating import StoreOperating
from eventmill.testing.store_contract.outages import StoreOutages
from eventmill.testing.store_contract.querying import StoreQuerying
from eventmill.testing.store_contract.questions import StoreQuestions
from eventmill.testing.store_contract.scanning import StoreScanning

__all__ = [
    "StoreContract",
    "StoreErasing",
    "StoreIdentity",
    "StoreInserting",
    "StoreOperating",
    "StoreOutages",
    "StoreQuerying",
    "StoreQuestions",
    "StoreScanning",
]


class StoreContract(
    StoreInserting,
    StoreIdentity,
    StoreScanning,
    StoreQuerying,
    StoreQuestions,
    StoreErasing,
    StoreOperating,
    StoreOutages,
):
    """The suite for stores. Subclass it, name the `backend`, and define the fixture `settings`: a new, empty store.

    Also define the fixtures `unreachable_settings` and `server` for a store on a server.
    """
