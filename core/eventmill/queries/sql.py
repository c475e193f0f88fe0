"""SQL: questions in a store's own language, for stores that have one."""

from dataclasses import dataclass

import msgspec

MAX_ROWS = 10_000
MAX_STATEMENT_CHARACTERS = 20_000


@dataclass(frozen=True, slots=True)
class SqlResult:
    """The rows of a statement, each the JSON of an array; `is_complete` is false if there were more than MAX_ROWS."""

    columns: tuple[str, ...]
    rows: tuple[msgspec.Raw, ...]
    is_complete: bool
