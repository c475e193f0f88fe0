"""Run the benchmarks, print one table, and write benchmarks/results.json.

    PYTHONPATH=tests python benchmarks/run.py [NAME ...]

Exit 1 when a bar does not hold. With names the results of the others stay as they are.
"""

import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

import consume
import counting
import idle
import ingest
import ingest_sqs
import insert_encoding
import live
import query
import sqs_cost
import sqs_drain
import start
import synced_merges
import year
from eventmill.cli.output import print_table
from figures import Figure

RESULTS = Path(__file__).parent / "results.json"
BENCHMARKS: dict[str, Callable[[], list[Figure]]] = {
    "ingest_single": ingest.single,
    "ingest_keyed": ingest.keyed,
    "ingest_counted": counting.counted,
    "ingest_bulk": ingest.bulk,
    "ingest_sqs": ingest_sqs.ingest,
    "sqs_cost": sqs_cost.cost,
    "sqs_drain": sqs_drain.drain,
    "insert_encoding": insert_encoding.encoding,
    "consume": consume.consume,
    "synced_merges": synced_merges.synced_merges,
    "query_day": query.reference,
    "query_growth": query.growth,
    "query_year": year.year,
    "fresh": live.fresh,
    "memory": live.memory,
    "idle": idle.idle,
    "start": start.start,
}


def main() -> None:
    names = sys.argv[1:] or list(BENCHMARKS)
    if unknown := set(names) - set(BENCHMARKS):
        sys.exit(f"no benchmark is called {', '.join(sorted(unknown))}; there are: {', '.join(BENCHMARKS)}")
    console, measured, failed = Console(stderr=True), dict[str, list[Figure]](), list[str]()
    for number, name in enumerate(names, 1):
        started = time.monotonic()
        try:
            with console.status(f"{name} ({number} of {len(names)})"):
                measured[name] = BENCHMARKS[name]()
        except Exception:  # the other benchmarks take half an hour
            console.print_exception()
            failed.append(name)
            continue
        console.print(f"{name}: {time.monotonic() - started:.0f} s", style="dim")
        write(name, measured[name])
    figures = [figure for some in measured.values() for figure in some]
    show(figures)
    sys.exit(1 if failed or not all(figure.holds for figure in figures) else 0)


def show(figures: list[Figure]) -> None:
    columns = ("figure", "unit", "ours", "compared with", "theirs", "value", "spread", "bar", "holds")
    print_table(columns, [_row(figure) for figure in figures])


def _row(figure: Figure) -> tuple[str, ...]:
    theirs = "" if figure.theirs is None else _short(figure.theirs)
    spread = f"{min(figure.values):.3g}–{max(figure.values):.3g}"
    holds = "yes" if figure.holds else "NO"
    return (
        figure.name,
        figure.unit,
        _short(figure.ours),
        figure.of,
        theirs,
        f"{figure.value:.3g}",
        spread,
        figure.bar,
        holds,
    )


def _short(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def write(name: str, figures: list[Figure]) -> None:
    """Put the figures of a benchmark into the file, in the place of what it gave before."""
    old = json.loads(RESULTS.read_text())["figures"] if RESULTS.exists() else []
    kept = [figure for figure in old if figure["benchmark"] != name]
    kept += [{"benchmark": name} | figure.as_json() for figure in figures]
    kept.sort(key=lambda figure: list(BENCHMARKS).index(figure["benchmark"]))
    machine = {"cpu": _cpu(), "cores": len(_cpus()), "python": platform.python_version(), "system": platform.platform()}
    RESULTS.write_text(json.dumps({"machine": machine, "figures": kept}, indent=2, ensure_ascii=False) + "\n")


def _cpus() -> list[str]:
    return [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]


def _cpu() -> str:
    return _cpus()[0].partition(":")[2].strip()


if __name__ == "__main__":
    main()
