"""Settings of statements: those that a server's profile must not change, and those that a server accepts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clickhouse_connect.driver.exceptions import DatabaseError

CONSTRAINT_VIOLATION = 452
STALE = {115, 164, CONSTRAINT_VIOLATION}  # errors after which the server may accept other settings than before
_LIMITED = (
    "distinct",
    "group_by",
    "join",
    "read",
    "result",
    "set",
    "sort",
    "timeout",
    "transfer",
)

# Sent with every statement: with other values of a profile, answers could be partial or different.
PINNED: dict[str, Any] = {
    **{f"{name}_overflow_mode": "throw" for name in _LIMITED},  # exceeding a limit is an error, not a partial answer
    "read_overflow_mode_leaf": "throw",
    "timeout_overflow_mode_leaf": "throw",
    "skip_unavailable_shards": 0,
    "distributed_group_by_no_merge": 0,
    "limit": 0,
    "offset": 0,
    "page": 0,
    "additional_table_filters": "{}",
    "additional_result_filter": "",
    "final": 0,
    "apply_deleted_mask": 1,
    "use_query_cache": 0,
    "extremes": 0,
    "join_use_nulls": 0,  # a user without a tombstone must get the year 1970, not NULL
    "any_join_distinct_right_table_keys": 0,
    "group_by_use_nulls": 0,
    "aggregate_functions_null_for_empty": 0,
    "empty_result_for_aggregation_by_empty_set": 0,
    "transform_null_in": 0,
    "force_grouping_standard_compatibility": 1,
    "dialect": "clickhouse",
    "output_format_native_encode_types_in_binary_format": 0,  # the driver cannot decode it
    "fsync_metadata": 1,
}
# One row with all settings, so that no limit of a profile can cut the list.
LOOKUP = "SELECT groupArray((name, value, readonly, max)) FROM system.settings"
FOR_LOOKUP = {name: PINNED[name] for name in ("limit", "offset", "additional_result_filter", "read_overflow_mode")}


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting of the server; `is_fixed` if the user may not change it."""

    value: str
    is_fixed: bool
    greatest: str | None = None


class Profile:
    """The settings of a server."""

    def __init__(self, known: Mapping[str, Setting]) -> None:
        self._known = known

    @classmethod
    def read(cls, rows: Sequence[Sequence[Any]]) -> "Profile":
        """Parse the rows of LOOKUP. Raise DatabaseError if they are not that."""
        known = {name: Setting(value, bool(fixed), most) for [row] in rows for name, value, fixed, most in row}
        if not known.keys() >= FOR_LOOKUP.keys():
            raise _violation("the server's list of settings cannot be read")
        return cls(known)

    def fit(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings to send.

        Omit settings that the server does not know and those that it fixes to the wanted value, and lower limits to its
        own. Raise DatabaseError if it fixes another setting to another value.
        """
        fitted = {}
        for name, value in wanted.items():
            known = self._known.get(name)
            if known is None or (known.is_fixed and (name.startswith("max_") or known.value == str(value))):
                continue
            if known.is_fixed:
                raise _violation(f"the profile fixes {name} to {known.value!r}, but eventmill needs {str(value)!r}")
            fitted[name] = _at_most(value, known.greatest) if name.startswith("max_") else value
        return fitted


def _at_most(value: int, greatest: str | None) -> int:
    """Return the limit, or that of the server if it is lower; 0 means none."""
    if greatest is None or not greatest.isdecimal() or greatest == "0":
        return value
    return min(value or int(greatest), int(greatest))


def _violation(words: str) -> DatabaseError:
    return DatabaseError(f"Code: {CONSTRAINT_VIOLATION}. DB::Exception: {words}", code=CONSTRAINT_VIOLATION)
