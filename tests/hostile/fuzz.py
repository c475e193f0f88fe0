"""schemathesis, with all of its checks, against a running server with keys.

python -m hostile.fuzz [EXAMPLES [SEEDS]]
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from support.mill import eventmill, running

_SETTINGS = {"EVENTMILL_QUEUE": "memory", "EVENTMILL_STORE": "memory", "EVENTMILL_ANONYMOUS": "false"}
_SECONDS_PER_EXAMPLE = 20


# Three runs, each with its server: requests without a key soon reach the limit for failures of an address, and a paused
# consumer would let `POST /events?wait=stored` wait.
PARTS = {
    "events": ("--include-path-regex", "^/events"),
    "questions": ("--include-path-regex", "^/(metrics|event-names|properties|funnels|retention|users|projects|sql)"),
    "operations": ("--include-path-regex", "^/(health|status|check|pause|resume|dead-letters)"),
}


def fuzz(folder: Path, examples: int, seed: int, part: str) -> str:
    """Send requests for each route of a part, as many examples as wanted. Return the report of schemathesis.

    Raise AssertionError if a response breaks the schema, or if the server does not survive.
    """
    secret = eventmill(
        "keys", "new", "--scope", "admin", "--project", "*", cwd=folder, settings=_SETTINGS
    ).stdout.strip()
    with running("run", "--listen", "127.0.0.1:0", cwd=folder, settings=_SETTINGS) as program:
        command = [
            str(Path(sys.executable).with_name("schemathesis")),
            *("--config-file", str(Path(__file__).with_name("schemathesis.toml"))),
            *("run", f"{program.url()}/openapi.json", "--header", f"Authorization: Bearer {secret}"),
            *("--checks", "all", "--phases", "examples,coverage,fuzzing", "--max-examples", str(examples)),
            *("--seed", str(seed), "--no-color", "--continue-on-failure"),
            *PARTS[part],
        ]
        timeout = max(280, _SECONDS_PER_EXAMPLE * examples)
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=timeout, check=False)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert program.stop() == 0
    assert "Traceback" not in program.output
    return done.stdout


def main() -> None:
    examples, seeds = int((sys.argv[1:2] or ["300"])[0]), int((sys.argv[2:3] or ["3"])[0])
    for seed in range(seeds):
        for part in PARTS:
            with tempfile.TemporaryDirectory() as folder:
                report = fuzz(Path(folder), examples, seed, part)
            cases = [line.strip() for line in report.splitlines() if "generated" in line]
            sys.stdout.write(f"seed {seed}, {part}, {examples} examples per route: {' '.join(cases)}\n")


if __name__ == "__main__":
    main()
