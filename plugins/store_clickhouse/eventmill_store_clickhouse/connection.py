"""Connection: the interface to an engine that runs ClickHouse's SQL."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import Metric

Rows = Sequence[Sequence[Any]]


class Connection(ABC):
    """One engine. All methods raise ClickHouseError, and the first call connects."""

    @abstractmethod
    async def execute(self, sql: str, parameters: Mapping[str, Any]) -> None:
        """Run a statement that returns no rows. The engine binds the parameters."""

    @abstractmethod
    async def query(self, sql: str, parameters: Mapping[str, Any], settings: Mapping[str, Any]) -> Rows:
        """Run a query of a client. The engine binds the parameters; they are never part of the text.

        When the call is cancelled, the engine stops the query, and queries that wait behind it do not wait for it.
        """

    @abstractmethod
    async def lookup(self, sql: str, parameters: Mapping[str, Any]) -> Rows:
        """Run a small query for an insert or a check, which does not wait for queries of clients."""

    @abstractmethod
    async def insert(self, table: str, columns: Sequence[str], lines: bytes, settings: Mapping[str, Any]) -> int:
        """Insert JSON lines in one statement; return the number of rows that the engine wrote."""

    @abstractmethod
    async def memory_limits(self) -> dict[str, Any]:
        """Return the settings that limit the memory of a query."""

    def warnings(self) -> list[str]:
        """Return what may soon endanger the engine."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Return metrics of the engine, without asking it."""
        return []

    @abstractmethod
    async def close(self) -> None:
        """Close the connection. Cancel or await what is still running."""
