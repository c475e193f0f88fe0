"""schemathesis, with all of its checks, against a running server with keys."""

import subprocess
import sys
from pathlib import Path

import pytest

from support.mill import eventmill, running

EXAMPLES = 15
SETTINGS = {"EVENTMILL_QUEUE": "memory", "EVENTMILL_STORE": "memory", "EVENTMILL_ANONYMOUS": "false"}


@pytest.mark.parametrize("seed", [1])
def test_every_request_of_the_schema_gets_an_answer_of_the_schema(tmp_path: Path, seed: int) -> None:
    secret = eventmill("keys", "new", "--scope", "admin", cwd=tmp_path, settings=SETTINGS).stdout.strip()
    with running("run", "--listen", "127.0.0.1:0", cwd=tmp_path, settings=SETTINGS) as program:
        url = program.url()
        command = [
            *(
                str(Path(sys.executable).with_name("schemathesis")),
                "--config-file",
                str(Path(__file__).with_name("schemathesis.toml")),
            ),
            *("run", f"{url}/openapi.json", "--header", f"Authorization: Bearer {secret}", "--checks", "all"),
            *("--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES), "--seed", str(seed)),
            *("--no-color", "--continue-on-failure"),
        ]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert "8 selected" in done.stdout
        assert program.stop() == 0
    assert "Traceback" not in program.output
