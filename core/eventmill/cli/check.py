"""eventmill check: whether the chosen backends can be used, and their warnings."""

import asyncio
import sys
from dataclasses import dataclass

from eventmill.cli.output import print_table
from eventmill.runtime.backends import Choice, choose
from eventmill.runtime.logs import start_log
from eventmill.settings import Settings, load

CHECK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one backend's check."""

    kind: str
    name: str
    is_ok: bool
    remarks: str


def check() -> None:
    settings = load(Settings)
    start_log(settings.log_level)
    findings = asyncio.run(_check(choose(settings)))
    rows = [(finding.kind, finding.name, "ok" if finding.is_ok else "FAILED", finding.remarks) for finding in findings]
    print_table(("part", "backend", "state", "remarks"), rows)
    if not all(finding.is_ok for finding in findings):
        sys.exit(1)


async def _check(choice: Choice) -> list[Finding]:
    findings = []
    for chosen in (choice.queue, choice.store):
        if chosen is None:
            continue
        async with chosen.open() as opened:
            try:
                async with asyncio.timeout(CHECK_SECONDS):
                    remarks, is_ok = "; ".join(await opened.check()), True
            except TimeoutError:
                remarks, is_ok = f"no answer within {CHECK_SECONDS:.0f} s", False
            except Exception as error:
                remarks, is_ok = f"{type(error).__name__}: {error}", False
        findings.append(Finding(chosen.kind, chosen.backend.name, is_ok, remarks))
    return findings
