"""SQL: questions in a store's own language, for stores that have one."""

from dataclasses import dataclass
from typing import Any

MAX_ROWS = 10_000
MAX_STATEMENT_CHARACTERS = 20_000


@dataclass(frozen=True, slots=True)
class SqlResult:
    """The rows of a statement; `is_complete` is false if there were more than MAX_ROWS."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    is_complete: bool
