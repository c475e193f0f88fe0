"""SQL of operators: one SELECT that reads the tables of the database, and nothing else.

`readonly` does not forbid everything: functions such as `file` and `url` read files and servers, `INTO OUTFILE` writes
a file, and SETTINGS lift limits. So the engine's own parser lists what the statement consists of, before it runs, and
only what is known to be harmless passes.
"""

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

from eventmill import InvalidQuery

_KINDS = {
    *("SelectWithUnionQuery", "SelectIntersectExceptQuery", "SelectQuery", "ExpressionList", "Subquery", "WithElement"),
    *("TablesInSelectQuery", "TablesInSelectQueryElement", "TableExpression", "TableIdentifier", "TableJoin"),
    *("Function", "Literal", "Identifier", "Asterisk", "QualifiedAsterisk", "OrderByElement", "ArrayJoin"),
    *("WindowDefinition", "WindowListElement", "FillModifier", "Set"),
}
_TABLE_FUNCTIONS = {"numbers", "zeros", "generateSeries", "generate_series", "values", "null", "view"}
_FORBIDDEN = re.compile(
    r"file|dictGet\w*|dictHas|joinGet\w*|sleep\w*|catboostEvaluate|hasColumnInTable|get\w*Setting\w*|current\w+|hostName",
    re.IGNORECASE,
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")  # of a table: no other database, and no file, which has an ending
_NODE = re.compile(r"( *)(\w+)(?: (.*))?")
_ENDING = re.compile(r"(?: \(alias .*\))?(?: \(children [0-9]+\))?$")
# A statement in tokens: texts, quoted names, comments, and single characters.
_TOKEN = re.compile(
    r"""'(?:[^'\\]|\\.|'')*'|"[^"\\\x00-\x1f]*"|`[^`\\\x00-\x1f]*`|--[^\n]*|/\*.*?\*/|[^'"`$#]""", re.DOTALL
)
_TOP = ["ExpressionList", "TablesInSelectQuery", "Literal"]  # SELECT * FROM (…) LIMIT n
_TOP_DEPTH = 3
_SELECT_ONE = "sql must be one SELECT, without INTO OUTFILE, FORMAT and SETTINGS"


class _Node(NamedTuple):
    depth: int
    kind: str
    name: str


def wrap(statement: str, limit: int) -> str:
    """Return the statement as a subquery, which has no INTO OUTFILE and no FORMAT. Raise InvalidQuery."""
    if sum(len(token[0]) for token in _TOKEN.finditer(statement)) != len(statement):
        raise InvalidQuery("sql has an open quote, a name with a backslash, or one of the signs $ and #", "sql")
    return f"SELECT * FROM (\n{statement.strip().rstrip(';')}\n) LIMIT {limit:d}"


def size(wrapped: str) -> str:
    """Return the statement that computes the size of the result, in bytes."""
    return f"SELECT sum(byteSize(*)) FROM ({wrapped})"


def check(lines: Iterable[str], databases: Collection[str]) -> None:
    """Raise InvalidQuery unless the lines of EXPLAIN AST are those of a SELECT that only reads tables.

    The statement is that of `wrap`, to which the driver adds FORMAT Native and settings.
    """
    nodes = [_parse(line) for line in lines]
    _check_top(nodes)
    parents: list[str] = []
    for node in nodes:
        if node.depth > len(parents):
            raise InvalidQuery("sql has a part that is not allowed", "sql")
        del parents[node.depth :]
        _check_node(node, parents[-1] if parents else "", databases)
        parents.append(node.kind)


def _parse(line: str) -> _Node:
    match = _NODE.fullmatch(line)
    if match is None:
        raise InvalidQuery("sql has a part that is not allowed", "sql")
    return _Node(len(match[1]), match[2], _ENDING.sub("", f" {match[3] or ''}", count=1).strip())


def _check_top(nodes: list[_Node]) -> None:
    """Check that the statement is in the subquery of `wrap`, and nothing of it is outside."""
    own = [node for node in nodes if node.depth <= _TOP_DEPTH]
    first = [node.kind for node in own if node.depth < _TOP_DEPTH and (node.depth, node.name) != (1, "Native")]
    inner = [node.kind for node in own if node.depth == _TOP_DEPTH]
    elements = [node for node in nodes if node.depth == _TOP_DEPTH + 1 and node.kind == "TablesInSelectQueryElement"]
    is_single = first == ["SelectWithUnionQuery", "ExpressionList", "SelectQuery"] and len(elements) == 1
    if not is_single or inner not in (_TOP, [*_TOP, "Set"]):
        raise InvalidQuery(_SELECT_ONE, "sql")


def _check_node(node: _Node, parent: str, databases: Collection[str]) -> None:
    if node.kind not in _KINDS:
        raise InvalidQuery(f"sql may not use {node.kind}", "sql")
    if node.kind == "Set" and node.depth > _TOP_DEPTH:
        raise InvalidQuery("sql may not have SETTINGS", "sql")
    if node.kind == "Function" and not _is_allowed(node.name, is_table=parent == "TableExpression"):
        raise InvalidQuery(f"sql may not use the function {node.name[:64]}, which reads more than tables", "sql")
    database, dot, _ = node.name.partition(".")
    is_odd_table = node.kind == "TableIdentifier" and not _NAME.fullmatch(node.name)
    if is_odd_table or (node.kind == "Identifier" and dot and database in databases):
        raise InvalidQuery(f"sql may read the tables events and erasures, not {node.name[:64]}", "sql")


def _is_allowed(function: str, *, is_table: bool) -> bool:
    if not _NAME.fullmatch(function) or _FORBIDDEN.fullmatch(function):
        return False
    return not is_table or function in _TABLE_FUNCTIONS
