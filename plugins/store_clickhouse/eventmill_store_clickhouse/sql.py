"""SQL of operators: one SELECT that reads the tables of the database, and nothing else.

`readonly` does not forbid everything: functions such as `file` and `url` read files and servers, `INTO OUTFILE` writes
a file, and SETTINGS lift limits. So the engine's own parser lists what the statement consists of, before it runs.
"""

import re
from collections.abc import Iterable

from eventmill import InvalidQuery

_TABLE_FUNCTIONS = {"numbers", "zeros", "generateSeries", "generate_series", "values", "null", "view"}
_FORBIDDEN = re.compile(
    r"(file|dictGet\w*|dictHas|joinGet\w*|sleep\w*|catboostEvaluate|executable|getServerSetting)$", re.IGNORECASE
)
_TABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*$")  # no other database, and no file, which has a path or an ending
_ENDINGS: tuple[list[str], ...] = ([], [" Identifier Native"])
_OWN_DEPTH = 3  # what is not deeper is that of `wrap`
_NODE = re.compile(r"( *)(\w+)(?: ([^ ].*?))?(?: \(alias .*\))?(?: \(children (\d+)\))?$")


def wrap(statement: str, limit: int) -> str:
    """Return the statement as a subquery, which has no INTO OUTFILE and no FORMAT."""
    return f"SELECT * FROM (\n{statement.strip().rstrip(';')}\n) LIMIT {limit:d}"


def check(nodes: Iterable[str]) -> None:
    """Raise InvalidQuery unless the lines of EXPLAIN AST are those of a SELECT that only reads tables.

    The statement is that of `wrap`, to which the driver adds FORMAT Native and settings.
    """
    lines = list(nodes)
    endings = [line for line in lines[1:] if not line.startswith("  ")]
    is_select = bool(lines) and lines[0].startswith("SelectWithUnionQuery ")
    if not is_select or [ending for ending in endings if not ending.startswith(" ExpressionList ")] not in _ENDINGS:
        raise InvalidQuery("sql must be one SELECT, without INTO OUTFILE, FORMAT and SETTINGS", "sql")
    parents: list[str] = []
    for line in lines:
        depth, kind, name = _parse(line)
        parent = parents[depth - 1] if depth else ""
        del parents[depth:]
        parents.append(kind)
        if kind == "Set" and depth > _OWN_DEPTH:
            raise InvalidQuery("sql may not have SETTINGS", "sql")
        is_table = parent == "TableExpression"
        if kind == "Function" and (_FORBIDDEN.match(name) or (is_table and name not in _TABLE_FUNCTIONS)):
            raise InvalidQuery(f"sql may not use the function {name[:64]}, which reads more than tables", "sql")
        if kind == "TableIdentifier" and not _TABLE.match(name):
            raise InvalidQuery(f"sql may read the tables events and erasures, not {name[:64]}", "sql")


def _parse(line: str) -> tuple[int, str, str]:
    match = _NODE.match(line)
    if match is None:
        raise InvalidQuery("sql has a part that is not allowed", "sql")
    return len(match[1]), match[2], match[3] or ""
