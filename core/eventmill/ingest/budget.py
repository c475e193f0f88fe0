"""One memory budget for everything that the API holds for its clients."""

from types import TracebackType

from eventmill.errors import Overloaded

SMALL_BYTES = 64 * 1024
_USED_UP = "the memory for pending requests is used up: try again"


class Budget:
    """The bytes that all bodies may use while they are read, decompressed and published.

    A quarter is reserved for requests of up to 64 KiB, so that large bodies, which may arrive slowly, never block them.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.large_limit_bytes = limit_bytes * 3 // 4
        self.used_bytes = 0

    @property
    def is_nearly_full(self) -> bool:
        """Whether requests above 64 KiB may be refused."""
        return self.used_bytes > self.large_limit_bytes * 0.9

    def hold(self) -> "Hold":
        """Return a share, which a `with` block releases at its end. Raise Overloaded if the budget is used up."""
        if self.used_bytes >= self.limit_bytes:
            raise Overloaded(_USED_UP)
        return Hold(self)


class Hold:
    """The share of one request."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._bytes = 0

    def grow(self, by_bytes: int) -> None:
        """Take more bytes. If the budget is used up, raise Overloaded and leave the share unchanged."""
        budget, of_bytes = self._budget, self._bytes + by_bytes
        used_bytes = budget.used_bytes + by_bytes
        limit_bytes = budget.limit_bytes if of_bytes <= SMALL_BYTES else budget.large_limit_bytes
        if by_bytes and used_bytes > limit_bytes:  # the last part of a body may be empty
            raise Overloaded(_USED_UP)
        budget.used_bytes, self._bytes = used_bytes, of_bytes

    def shrink(self, by_bytes: int) -> None:
        """Return part of the share to the budget."""
        self._budget.used_bytes -= by_bytes
        self._bytes -= by_bytes

    def __enter__(self) -> "Hold":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shrink(self._bytes)
