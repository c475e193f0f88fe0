"""`eventmill serve` and other servers for benchmarks, each on a separate core."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from load import SERVER_CPU, pin
from support import services
from support.mill import is_alive, running, wait_until

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Server:
    """Where it listens, and its process."""

    url: str
    pid: int


def with_plugins(folder: Path) -> dict[str, str]:
    """Settings that install `eventmill_bench`, for programs that are started with them."""
    metadata = folder / "eventmill_bench-1.0.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: eventmill-bench\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[eventmill]\nbench = eventmill_bench\n")
    return {"PYTHONPATH": f"{folder}:{HERE}"}


@contextmanager
def serving(folder: Path, settings: Mapping[str, str]) -> Iterator[Server]:
    """`eventmill serve`, one worker, on the server's core; without a store unless the settings name one."""
    needed = {"EVENTMILL_STORE": "none", "EVENTMILL_SHUTDOWN_DELAY_SECONDS": "0"} | with_plugins(folder)
    with running("serve", "--listen", "127.0.0.1:0", cwd=folder, settings=needed | dict(settings)) as program:
        url = program.url()
        pin(program.process.pid, SERVER_CPU)
        yield Server(url, program.process.pid)


@contextmanager
def serving_script(name: str, *arguments: str) -> Iterator[Server]:
    """A script of this folder that serves at the port in its first argument."""
    port = services.free_port()
    process = subprocess.Popen([sys.executable, str(HERE / name), str(port), *arguments])
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: is_alive(url))
        pin(process.pid, SERVER_CPU)
        yield Server(url, process.pid)
    finally:
        process.kill()
        process.wait()
