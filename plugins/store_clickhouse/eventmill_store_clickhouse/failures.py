"""The table from error codes of ClickHouse to exceptions of the contract."""

import re

from clickhouse_connect.driver.exceptions import ClickHouseError, Error

from eventmill import (
    MAX_GROUPS,
    EventmillError,
    InvalidQuery,
    QueryTooLarge,
    RejectedEvents,
    StoreMisconfigured,
    StoreUnavailable,
)

# Names by `SELECT errorCodeToName(…)`. A code in no set means unavailable: core retries.
UNKNOWN_TABLE = 60
DENIED = {164, 497}  # the user lacks a permission
_WRONG_LOGIN = {192, 193, 194, 516}
MISCONFIGURED = {
    8: "THERE_IS_NO_COLUMN",
    10: "NOT_FOUND_COLUMN_IN_BLOCK",
    16: "NO_SUCH_COLUMN_IN_TABLE",
    20: "NUMBER_OF_COLUMNS_DOESNT_MATCH",
    36: "BAD_ARGUMENTS",
    43: "ILLEGAL_TYPE_OF_ARGUMENT",
    44: "ILLEGAL_COLUMN",
    46: "UNKNOWN_FUNCTION",
    47: "UNKNOWN_IDENTIFIER",
    48: "NOT_IMPLEMENTED",
    60: "UNKNOWN_TABLE",
    62: "SYNTAX_ERROR",
    81: "UNKNOWN_DATABASE",
    115: "UNKNOWN_SETTING",
    164: "READONLY",
    170: "CLUSTER_DOESNT_EXIST",
    192: "UNKNOWN_USER",
    193: "WRONG_PASSWORD",
    194: "REQUIRED_PASSWORD",
    291: "DATABASE_ACCESS_DENIED",
    344: "SUPPORT_IS_DISABLED",
    452: "SETTING_CONSTRAINT_VIOLATION",
    497: "ACCESS_DENIED",
    516: "AUTHENTICATION_FAILED",
}
REJECTED = {
    6: "CANNOT_PARSE_TEXT",
    25: "CANNOT_PARSE_ESCAPE_SEQUENCE",
    26: "CANNOT_PARSE_QUOTED_STRING",
    27: "CANNOT_PARSE_INPUT_ASSERTION_FAILED",
    33: "CANNOT_READ_ALL_DATA",
    38: "CANNOT_PARSE_DATE",
    41: "CANNOT_PARSE_DATETIME",
    53: "TYPE_MISMATCH",
    69: "ARGUMENT_OUT_OF_BOUND",
    70: "CANNOT_CONVERT_TYPE",
    72: "CANNOT_PARSE_NUMBER",
    117: "INCORRECT_DATA",
    130: "CANNOT_READ_ARRAY_FROM_TEXT",
    131: "TOO_LARGE_STRING_SIZE",
    349: "CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN",
    469: "VIOLATED_CONSTRAINT",
}
_TOO_MANY_ROWS = 158
TOO_LARGE = {  # the errors of limits, in words
    _TOO_MANY_ROWS: "reads more rows than a query may",
    159: "takes longer than 10 s",
    160: "would take longer than 10 s",
    241: "needs more memory than a query may take",
    307: "reads more than a query may",
    396: "has a larger result than a query may",
}
# HTTP statuses of servers that are not ClickHouse, or of a proxy: retrying cannot help.
_WRONG_SERVER = re.compile(r"received HTTP status (30\d|400|401|403|404|405|407)\b")
_QUOTED = re.compile(
    r"(Column values:|before: ['\"]|Buffer content:|while parsing value:).*?(?=\(at row|\([A-Z_]{6,}\)|$)"
)
_ROW = re.compile(r"\(at row (\d+)\)")


def code_of(error: ClickHouseError) -> int | None:
    """Return the error code of ClickHouse, or None for a network error."""
    return error.code if isinstance(error, Error) else None


def explain(error: ClickHouseError) -> EventmillError:
    """Return the exception for an error of any statement."""
    code, text = code_of(error), describe(error)
    if code == UNKNOWN_TABLE:
        return StoreMisconfigured(f"{text}: the schema does not exist or is incomplete: run `eventmill migrate`")
    if code in _WRONG_LOGIN:
        return StoreMisconfigured(
            f"{text} Correct the user and the password in EVENTMILL_STORE_CLICKHOUSE_URL (special characters as %XX),"
            " then restart `serve` and `consume`"
        )
    if code in DENIED:
        return StoreMisconfigured(f"{text}: run `GRANT SELECT, INSERT, ALTER, CREATE ON DATABASE.* TO USER`")
    if code in MISCONFIGURED or (code is None and _WRONG_SERVER.search(text)):
        return StoreMisconfigured(text)
    return StoreUnavailable(text)


def explain_insert(error: ClickHouseError, rows: int) -> EventmillError:
    """Return the exception for an error of an insert. It names the row if ClickHouse does."""
    if code_of(error) not in REJECTED:
        return explain(error)
    # ClickHouse quotes the data before it names the row, so only the last match is its own.
    named = _ROW.findall(str(error))
    index = int(named[-1]) - 1 if named else -1
    return RejectedEvents(describe(error), [index] if 0 <= index < rows else None)


def explain_query(error: ClickHouseError) -> EventmillError:
    """Return the exception for an error of a query, which may exceed its limits."""
    if code_of(error) == _TOO_MANY_ROWS and "GROUP BY" in str(error):
        return QueryTooLarge(
            f"there are more than {MAX_GROUPS} groups: ask for a shorter time, or set limit for the largest groups",
            "group_by",
        )
    if code_of(error) in TOO_LARGE:
        return QueryTooLarge(f"the query {TOO_LARGE[code_of(error) or 0]}: ask for a shorter time, or for fewer groups")
    return explain(error)


def explain_sql(error: ClickHouseError) -> EventmillError:
    """Return the exception for an error of an operator's statement."""
    if code_of(error) in TOO_LARGE:
        return QueryTooLarge(f"the statement {TOO_LARGE[code_of(error) or 0]}: read less, or select less", "sql")
    if code_of(error) is None:
        return explain(error)
    return InvalidQuery(f"sql: {describe(error)}", "sql")


def describe(error: ClickHouseError) -> str:
    """Return the message on one line, short enough for a log and a dead letter, and without the data that it quotes."""
    text = " ".join(str(error).replace("DB::Exception: ", "").split())
    return _QUOTED.sub(r"\1 …", text)[:500]
