"""One budget of memory for everything the API holds on behalf of clients."""

from types import TracebackType

from eventmill.errors import Overloaded


class Budget:
    """Bytes that bodies being read, unpacked and waiting for the queue may take together."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self.used_bytes = 0

    def hold(self) -> "Hold":
        """A share to grow, given back when its `with` block ends. Raises Overloaded when nothing is left."""
        if self.used_bytes >= self._limit_bytes:
            raise Overloaded("too much is pending: try again")
        return Hold(self)

    def change(self, by_bytes: int) -> None:
        if by_bytes > 0 and self.used_bytes + by_bytes > self._limit_bytes:
            raise Overloaded("too much is pending: try again")
        self.used_bytes += by_bytes


class Hold:
    """One request's share of a budget."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._bytes = 0

    def grow(self, by_bytes: int) -> None:
        """Take more. Raises Overloaded when the budget is used up; the share stays as it was."""
        self._budget.change(by_bytes)
        self._bytes += by_bytes

    def shrink(self, by_bytes: int) -> None:
        """Give part of it back."""
        self.grow(-by_bytes)

    def __enter__(self) -> "Hold":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shrink(self._bytes)
