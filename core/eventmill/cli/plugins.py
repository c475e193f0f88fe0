"""eventmill plugins: the installed queues, stores and HTTP pages, and whether they work."""

import json
import sys

from eventmill.cli.output import print_table
from eventmill.plugins import Loaded, Plugins, load_plugins

_COLUMNS = ("kind", "name", "plugin", "distribution", "version", "status")


def show(*, as_json: bool) -> None:
    rows = _rows(load_plugins())
    if as_json:
        json.dump([dict(zip(_COLUMNS, row, strict=True)) for row in rows], sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        print_table(_COLUMNS, rows)


def _rows(plugins: Plugins) -> list[tuple[str, ...]]:
    rows = [
        *(
            _row("queue", item.record.name, item, _status(plugins, "queue", item.record.name))
            for item in plugins.queues
        ),
        *(
            _row("store", item.record.name, item, _status(plugins, "store", item.record.name))
            for item in plugins.stores
        ),
        *(_row("http", item.record.path, item, "ok") for item in plugins.http_apps),
    ]
    for source, why in plugins.broken.items():
        rows.append(("?", "?", source.entry_point, source.distribution, source.version, f"broken: {why}"))
    return sorted(rows)


def _row(kind: str, name: str, item: Loaded[object], status: str) -> tuple[str, ...]:
    source = item.source
    return (kind, name, source.entry_point, source.distribution, source.version, status)


def _status(plugins: Plugins, kind: str, name: str) -> str:
    loaded = plugins.queues if kind == "queue" else plugins.stores
    return "ok" if sum(item.record.name == name for item in loaded) == 1 else "ambiguous: several plugins provide it"
