"""eventmill check: can the chosen backends be used, and what should be known about them?"""

import asyncio
import sys
from dataclasses import dataclass

from eventmill.cli.backends import Choice, choose
from eventmill.cli.output import print_table, start_log
from eventmill.settings import Settings, load

CHECK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What one backend said; `ok` is False where it cannot be used."""

    kind: str
    name: str
    ok: bool
    words: str


def check() -> None:
    settings = load(Settings)
    start_log(settings.log_level)
    findings = asyncio.run(_check(choose(settings)))
    rows = [(finding.kind, finding.name, "ok" if finding.ok else "FAILED", finding.words) for finding in findings]
    print_table(("part", "backend", "state", "remarks"), rows)
    if not all(finding.ok for finding in findings):
        sys.exit(1)


async def _check(choice: Choice) -> list[Finding]:
    findings = []
    for chosen in (choice.queue, choice.store):
        if chosen is None:
            continue
        async with chosen.open() as opened:
            try:
                async with asyncio.timeout(CHECK_SECONDS):
                    words, ok = "; ".join(await opened.check()), True
            except TimeoutError:
                words, ok = f"no answer within {CHECK_SECONDS:.0f} s", False
            except Exception as error:
                words, ok = f"{type(error).__name__}: {error}", False
        findings.append(Finding(chosen.kind, chosen.backend.name, ok, words))
    return findings
