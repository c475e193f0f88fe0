"""What the store needs of an engine that speaks ClickHouse's SQL."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

Rows = Sequence[Sequence[Any]]


class Connection(ABC):
    """One engine. All methods raise ClickHouseError, and connect at their first use, not before."""

    @abstractmethod
    async def execute(self, sql: str, parameters: Mapping[str, Any]) -> None:
        """Run a statement that has no answer; its parameters are bound by the engine."""

    @abstractmethod
    async def ask(self, sql: str, parameters: Mapping[str, Any], settings: Mapping[str, Any]) -> Rows:
        """Ask a question; the engine binds its parameters, they are never written into the text.

        May be cancelled: then the engine stops working on it, and what waits behind it does not wait for it.
        """

    @abstractmethod
    async def look(self, sql: str, parameters: Mapping[str, Any]) -> Rows:
        """Look something small up, on behalf of an insert or a check: it does not wait for questions."""

    @abstractmethod
    async def insert(self, table: str, columns: Sequence[str], lines: bytes, settings: Mapping[str, Any]) -> int:
        """Insert JSON lines in one statement; return how many rows the engine wrote."""

    @abstractmethod
    async def close(self) -> None:
        """Leave; what is still running is cancelled or awaited."""
