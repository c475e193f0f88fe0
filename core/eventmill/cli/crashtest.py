"""eventmill crashtest: prove on your own backends that nothing is lost and nothing is counted twice."""

import asyncio
import json
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from eventmill.cli.output import print_table
from eventmill.crashtest import runner
from eventmill.crashtest.ledger import Ledger
from eventmill.crashtest.outages import Outages
from eventmill.errors import ConfigurationError
from eventmill.runtime.backends import Choice, choose, embedded
from eventmill.runtime.logs import start_log
from eventmill.settings import Settings, is_set, load


def crashtest(
    *,
    plan: runner.Plan,
    queue: str | None,
    store: str | None,
    outage_command: str | None,
    as_json: bool,
) -> None:
    """Run the crash test; exit 1 if an event was lost, doubled or altered."""
    # SIGTERM acts like Ctrl-C, which cancels the loop and raises KeyboardInterrupt. A shell may have disabled Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    with tempfile.TemporaryDirectory(prefix="eventmill-crashtest-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        settings = load(Settings, queue=queue, store=store)
        start_log("error" if settings.log_level == "info" else settings.log_level)
        choice = _choose(settings, folder, kill9=plan.kill9)
        outages = Outages(outage_command, folder) if outage_command is not None else None
        ledger = Ledger(f"crashtest-{uuid4().hex[:12]}", needs_outage=outages is not None)
        try:
            asyncio.run(runner.run(choice, ledger, folder, plan, outages))
        finally:
            if outages:
                outages.start()
    _report(ledger, as_json=as_json)
    sys.exit(0 if ledger.is_good else 1)


def _choose(settings: Settings, folder: Path, *, kill9: bool) -> Choice:
    """Return the backends, with a short lease unless one is set: messages of a killed consumer return when it ends."""
    queue, store = embedded(folder)
    choice = choose(settings, queue=queue, store=store)
    if kill9 and "memory" in (choice.queue.backend.name, choice.require_store().backend.name):
        raise ConfigurationError("--kill9 loses the events in memory backends, by design: choose other backends")
    chosen = choice.queue.settings
    if "lease_seconds" not in type(chosen).model_fields or is_set(type(chosen), "lease_seconds"):
        return choice
    short = chosen.model_copy(update={"lease_seconds": runner.LEASE_SECONDS})
    return replace(choice, queue=replace(choice.queue, settings=short))


def _report(ledger: Ledger, *, as_json: bool) -> None:
    figures = ledger.verdict()
    if as_json:
        sys.stdout.write(json.dumps(figures) + "\n")
    else:
        print_table(("figure", "events"), [(name, str(number)) for name, number in figures.items()])
        print_table(("", ""), [("verdict", "nothing lost, nothing doubled" if ledger.is_good else "FAILED")])
