"""What `make run` costs while nothing happens."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from figures import Figure, compare
from load import cpu_ms
from support import services
from support.mill import running

ROUNDS, SECONDS, SETTLE_SECONDS = 3, 10, 5
BAR = 1.5
HERE = Path(__file__).parent


def idle() -> list[Figure]:
    """CPU of `eventmill run` against an empty FastAPI program that holds an idle chDB, both at the same time."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        port = services.free_port()
        command = [sys.executable, str(HERE / "empty_fastapi.py"), str(port), str(folder / "chdb")]
        empty = subprocess.Popen(command)
        try:
            services.wait_for_port(port, empty)
            with running("run", "--listen", "127.0.0.1:0", cwd=folder) as program:
                program.url()
                time.sleep(SETTLE_SECONDS)
                rounds = [_cpu(program.process.pid, empty.pid) for _ in range(ROUNDS)]
        finally:
            empty.kill()
            empty.wait()
    ours, theirs = [mine for mine, _ in rounds], [other for _, other in rounds]
    of = "an empty FastAPI program and chDB"
    return [compare("idle", of, "ms of CPU per second", ours, theirs, at_most=BAR)]


def _cpu(*pids: int) -> list[float]:
    """Milliseconds of CPU that each process uses in a second."""
    before = [cpu_ms(pid) for pid in pids]
    time.sleep(SECONDS)
    return [(cpu_ms(pid) - start) / SECONDS for pid, start in zip(pids, before, strict=True)]
