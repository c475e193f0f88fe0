"""What commands print: colors and tables on a terminal, plain text in a pipe."""

import csv
import json
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from eventmill.text import escape


def print_answer(
    columns: Sequence[str], rows: Sequence[Sequence[str]], answer: object, *, as_json: bool, as_csv: bool
) -> None:
    """Print an answer: as JSON, as CSV with a header, or as a table."""
    if as_json:
        sys.stdout.write(json.dumps(answer) + "\n")
    elif as_csv:
        csv.writer(sys.stdout).writerows([columns, *rows])
    else:
        print_table(columns, rows)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on a terminal, and lines of tab-separated fields elsewhere. Cells are escaped."""
    console = Console()
    if not console.is_terminal:
        for row in rows:
            sys.stdout.write("\t".join(map(escape, row)) + "\n")
        return
    console.print(create_table(columns, rows))


def create_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table for a terminal. Cells are escaped."""
    table = Table(box=None, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(escape(column), overflow="fold", no_wrap=number == 0)  # an id or a name must not be cut
    for row in rows:
        table.add_row(*(Text(escape(cell)) for cell in row))
    return table
