"""What commands print: colors and tables on a terminal, plain text in a pipe."""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from eventmill.text import escape


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on a terminal, and lines of tab-separated fields elsewhere. Cells are escaped."""
    rows = [[escape(cell) for cell in row] for row in rows]
    console = Console()
    if not console.is_terminal:
        for row in rows:
            sys.stdout.write("\t".join(row) + "\n")
        return
    table = Table(*columns, box=None, header_style="bold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)
