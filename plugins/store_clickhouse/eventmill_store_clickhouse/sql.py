"""SQL of operators: one SELECT that reads the tables events and erasures, and nothing else.

The embedded engine is no sandbox: functions read files and call servers, INTO OUTFILE writes files, and SETTINGS lift
limits. So three rules hold before a statement runs. Its text has no sign that could end it, hide a part of it, or let
the engine's parser and this one differ. The engine's own parser lists its parts, and only kinds of parts that are known
to be harmless pass. Functions pass by their category in the engine's own list, and their arguments by `zones`.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eventmill import InvalidQuery
from eventmill_store_clickhouse import zones
from eventmill_store_clickhouse.zones import Node

SETTINGS = {"function_range_max_elements_in_block": 100_000}
MAX_MEMORY_BYTES = 1024**3
MAX_RESULT_BYTES = 32 * 1024 * 1024  # of the rows as JSON
MAX_PARTS = 2_000  # of a statement: the engine computes constants without looking at the clock
RESULT = {
    "max_result_bytes": MAX_RESULT_BYTES,
    "result_overflow_mode": "throw",
    "output_format_json_quote_64bit_integers": 0,
    "output_format_json_quote_denormals": 1,
}
FUNCTIONS = "SELECT name, categories, is_aggregate, alias_to FROM system.functions"
NAMES = """
SELECT (SELECT groupArray(name) FROM system.databases),
    (SELECT groupArray(name) FROM system.tables WHERE database = currentDatabase())
"""
_KINDS = {
    *("SelectWithUnionQuery", "SelectIntersectExceptQuery", "SelectQuery", "ExpressionList", "Subquery", "WithElement"),
    *("TablesInSelectQuery", "TablesInSelectQueryElement", "TableExpression", "TableIdentifier", "TableJoin"),
    *("Function", "Literal", "Identifier", "Asterisk", "QualifiedAsterisk", "OrderByElement", "ArrayJoin"),
    *("WindowDefinition", "WindowListElement", "FillModifier", "InterpolateElement", "Set"),
}
_CATEGORIES = {
    *("Arithmetic", "Arrays", "Bit", "Bitmap", "Comparison", "Conditional", "Dates and Times", "Distance", "Encoding"),
    *("Financial", "Hash", "IP Address", "JSON", "Logical", "Map", "Mathematical", "Null", "Rounding", "String"),
    *(
        "String Replacement",
        "String Search",
        "String Splitting",
        "Time Window",
        "Tuple",
        "Type Conversion",
        "URL",
        "UUID",
    ),
}
_HARMLESS = {"bar", "bytesize", "exists", "grouping", "ignore", "lambda", "materialize"}
_COMBINATORS = re.compile(r"(If|Array|Map|Distinct|OrNull|OrDefault|ForEach|ArgMin|ArgMax)$")
_TABLES = {"events", "erasures"}
_TABLE_FUNCTIONS = {"numbers", "zeros", "generateSeries", "generate_series", "null", "view"}
_COLUMNS = {"version"}  # a column of events that has the name of a function
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NODE = re.compile(r"( *)(\w+)(?: (.*))?")
_ENDING = re.compile(r"(?: \(alias .*\))?(?: \(children [0-9]+\))?$")
_REFUSED = re.compile(r"[;#$\u2018-\u201f\x00-\x08\x0b-\x1f\x7f]|--|/\*|\*/")
_TOKEN = re.compile(r"""'(?:[^'\\]|\\.|'')*'|"[^"\\\n]*"|`[^`\\\n]*`|[^'"`]""", re.DOTALL)
_TOP = ["ExpressionList", "TablesInSelectQuery", "Literal"]  # SELECT * FROM (…) LIMIT n
_TOP_DEPTH = 3


@dataclass(frozen=True, slots=True)
class Functions:
    """The functions of the engine, in small letters: those that a statement may use, those that may take a zone."""

    all: Collection[str]
    allowed: Collection[str]
    zoned: Collection[str]

    @classmethod
    def of(cls, rows: Sequence[Sequence[Any]]) -> "Functions":
        """Return them from rows of FUNCTIONS."""
        aliases = {str(name).lower(): str(alias).lower() for name, _, _, alias in rows if alias}
        allowed = {
            str(name).lower() for name, category, is_aggregate, _ in rows if is_aggregate or category in _CATEGORIES
        }
        allowed |= {name for name, original in aliases.items() if original in allowed} | _HARMLESS
        zoned = {str(name).lower() for name, category, _, _ in rows if category in zones.CATEGORIES}
        zoned |= {name for name, original in aliases.items() if original in zoned}
        return cls({str(row[0]).lower() for row in rows}, allowed, zoned)

    def may_use(self, name: str) -> bool:
        """Return whether a function may be called; also an aggregate function with combinators such as -If."""
        while name.lower() not in self.allowed and (shorter := _COMBINATORS.sub("", name)) != name:
            name = shorter
        return name.lower() in self.allowed


@dataclass(frozen=True, slots=True)
class Engine:
    """What a check must know of the engine."""

    functions: Functions
    databases: Collection[str]
    tables: Collection[str]


def wrap(statement: str, limit: int) -> str:
    """Return the statement as a subquery, which has no INTO OUTFILE and no FORMAT. Raise InvalidQuery."""
    text = statement.strip().removesuffix(";").rstrip()
    if found := _REFUSED.search(text):
        raise InvalidQuery(
            f"sql may not contain {found[0]!r}: leave out comments, typographic quotes, and ; # $", "sql"
        )
    tokens = [match[0] for match in _TOKEN.finditer(text)]
    if "".join(tokens) != text:
        raise InvalidQuery("sql has an open quote, or a quoted name with a backslash", "sql")
    depth = 0
    for sign in tokens:
        depth += (sign == "(") - (sign == ")")
        if depth < 0:
            break
    if depth:
        raise InvalidQuery("sql has parentheses that do not match", "sql")
    return f"SELECT * FROM (\n{text}\n) LIMIT {limit:d}"


def to_json(wrapped: str) -> str:
    """Return the statement that answers each row as the JSON of an array, so that its size is what is sent."""
    return f"SELECT toValidUTF8(formatRowNoNewline('JSONCompactEachRow', *)) FROM ({wrapped})"


def limits(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a statement, from those of queries."""
    return {**wanted, **SETTINGS, "max_memory_usage": min(MAX_MEMORY_BYTES, wanted["max_memory_usage"])}


def check(lines: Iterable[str], engine: Engine) -> None:
    """Raise InvalidQuery unless the lines of EXPLAIN AST are those of a SELECT that only reads the two tables.

    The statement is that of `wrap`, to which the driver adds FORMAT Native and settings.
    """
    nodes = [_parse(line) for line in lines]
    if len(nodes) > MAX_PARTS:
        raise InvalidQuery(f"sql has {len(nodes)} parts, more than {MAX_PARTS}", "sql")
    _check_top(nodes)
    parents: list[str] = []
    for at, node in enumerate(nodes):
        if node.depth > len(parents):
            raise InvalidQuery("sql has a part that is not allowed", "sql")
        del parents[node.depth :]
        _check_node(node, parents[-1] if parents else "", engine)
        if node.kind == "Function":
            zones.check(nodes, at, has_zone=node.name.lower() in engine.functions.zoned)
        parents.append(node.kind)


def _parse(line: str) -> Node:
    match = _NODE.fullmatch(line)
    if match is None:
        raise InvalidQuery("sql has a part that is not allowed", "sql")
    return Node(len(match[1]), match[2], _ENDING.sub("", f" {match[3] or ''}", count=1).strip())


def _check_top(nodes: list[Node]) -> None:
    """Check that the statement is in the subquery of `wrap`, and nothing of it is outside."""
    own = [node for node in nodes if node.depth <= _TOP_DEPTH]
    first = [node.kind for node in own if node.depth < _TOP_DEPTH and (node.depth, node.name) != (1, "Native")]
    inner = [node.kind for node in own if node.depth == _TOP_DEPTH]
    elements = [node for node in nodes if node.depth == _TOP_DEPTH + 1 and node.kind == "TablesInSelectQueryElement"]
    is_single = first == ["SelectWithUnionQuery", "ExpressionList", "SelectQuery"] and len(elements) == 1
    if not is_single or inner not in (_TOP, [*_TOP, "Set"]):
        raise InvalidQuery("sql must be one SELECT, without INTO OUTFILE, FORMAT and SETTINGS", "sql")


def _check_node(node: Node, parent: str, engine: Engine) -> None:
    if node.kind not in _KINDS:
        raise InvalidQuery(f"sql may not use {node.kind}", "sql")
    if node.kind == "Set" and node.depth > _TOP_DEPTH:
        raise InvalidQuery("sql may not have SETTINGS", "sql")
    if node.kind == "Function" and not _may_call(node.name, parent, engine):
        raise InvalidQuery(f"sql may not use the function {node.name[:64]}", "sql")
    if node.kind == "Identifier" and not _may_name(node.name, engine):
        raise InvalidQuery(f"sql may not use {node.name[:64]}: name columns of events and erasures", "sql")
    if node.kind == "TableIdentifier" and not _may_read(node.name, engine):
        raise InvalidQuery(f"sql may read the tables events and erasures, not {node.name[:64]}", "sql")


def _may_call(name: str, parent: str, engine: Engine) -> bool:
    if parent == "TableExpression":
        return name in _TABLE_FUNCTIONS
    return engine.functions.may_use(name)


def _may_name(name: str, engine: Engine) -> bool:
    """Return whether a name is a column: not the table of another database, and no function that is not allowed."""
    first, dot, _ = name.partition(".")
    last = name.rpartition(".")[2].lower()
    is_function = last in engine.functions.all and last not in engine.functions.allowed and last not in _COLUMNS
    is_table = not dot and name in engine.tables and name not in _TABLES
    return not is_function and not is_table and not (dot and first in engine.databases)


def _may_read(name: str, engine: Engine) -> bool:
    """Return whether a table is one of the two, or a subquery of WITH, which has the name of no other table."""
    return name in _TABLES or (_NAME.fullmatch(name) is not None and name not in engine.tables)
