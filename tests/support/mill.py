"""eventmill in this process, and eventmill as a program, for tests."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import httpx
from prometheus_client import CollectorRegistry

import eventmill_queue_memory
import eventmill_store_memory
from eventmill import HttpApp, Queue, Services, Store
from eventmill.api.access import Access
from eventmill.api.app import create_app
from eventmill.api.gate import Gate
from eventmill.consumer.consumer import DRAIN_SECONDS, Consumer
from eventmill.consumer.telemetry import ConsumerTelemetry
from eventmill.ingest.budget import Budget
from eventmill.ingest.publisher import Publisher
from eventmill.ingest.telemetry import IngestTelemetry
from eventmill.queries.limiter import QueryLimiter
from eventmill.queries.telemetry import QueryTelemetry
from eventmill.shutdown import Shutdown
from eventmill_queue_memory.settings import MemoryQueueSettings
from eventmill_store_memory.settings import MemoryStoreSettings

NO_SETTINGS: Mapping[str, str] = MappingProxyType({})
DEFAULTS = {"EVENTMILL_ANONYMOUS": "true", "EVENTMILL_BATCH_SECONDS": "0.1", "EVENTMILL_OPS_LISTEN": "off"}
ROOT = Path(__file__).parents[2]


@dataclass
class Mill:
    """The API with its parts, and a client of it."""

    client: httpx.AsyncClient
    queue: Queue
    store: Store
    shutdown: Shutdown
    budget: Budget
    app: Gate
    registry: CollectorRegistry


@asynccontextmanager
async def running_mill(
    wrap_queue: Callable[[Queue], Queue] = lambda queue: queue,
    wrap_store: Callable[[Store], Store] = lambda store: store,
    http_apps: list[HttpApp] | None = None,
    timeout_seconds: float = 5.0,
    limiter: QueryLimiter | None = None,
    access: Access | None = None,
) -> AsyncIterator[Mill]:
    """The API and a consumer over memory backends, all in this process; without `access` no request needs a key."""
    async with (
        eventmill_queue_memory.backend.open(MemoryQueueSettings()) as inner_queue,
        eventmill_store_memory.backend.open(MemoryStoreSettings()) as inner_store,
    ):
        queue, store = wrap_queue(inner_queue), wrap_store(inner_store)
        shutdown, stopping, budget = Shutdown(), Shutdown(), Budget(64 * 1024 * 1024)
        registry = CollectorRegistry()
        telemetry = ConsumerTelemetry(registry)
        consumer = Consumer(queue, store, stopping, batch_seconds=0.01, receive_seconds=0.05, telemetry=telemetry)
        consuming = asyncio.create_task(consumer.run())
        ingest = IngestTelemetry(registry)
        async with Publisher(queue, timeout_seconds=timeout_seconds, telemetry=ingest) as publisher:
            limiter = limiter or QueryLimiter(shutdown, telemetry=QueryTelemetry(registry))
            services = Services("default", queue, store, publisher, limiter, registry)
            access = access or Access("default", is_anonymous=True)
            app = create_app(services, shutdown, budget, access, http_apps or ())
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://mill") as client:
                yield Mill(client, queue, store, shutdown, budget, app, registry)
        stopping.begin(DRAIN_SECONDS)
        await consuming


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with no settings of eventmill but these; batches are short, `serve` needs no keys."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EVENTMILL_")}
    return kept | {"COLUMNS": "120", "PYTHONUNBUFFERED": "1"} | DEFAULTS | dict(settings)


def install(folder: Path, name: str, module: str) -> None:
    """Install a plugin for programs that have the folder on their PYTHONPATH; the module must be importable there."""
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[eventmill]\n{name} = {module}\n")


def eventmill(
    *arguments: str, cwd: Path, stdin: bytes | None = None, settings: Mapping[str, str] = NO_SETTINGS
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, as a user does."""
    done = subprocess.run(
        [sys.executable, "-m", "eventmill", *arguments],
        cwd=cwd,
        env=environment(settings),
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


class Program:
    """A command that runs until it is stopped, and what it prints meanwhile."""

    def __init__(self, *arguments: str, cwd: Path, settings: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "eventmill", *arguments],
            cwd=cwd,
            env=environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line

    def wait_for(self, pattern: str, seconds: float = 20) -> re.Match[str]:
        """Wait until the output holds the pattern."""
        until = time.monotonic() + seconds
        while (found := re.search(pattern, self.output)) is None:
            assert time.monotonic() < until, f"no {pattern!r} within {seconds} s:\n{self.output}"
            assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.output}"
            time.sleep(0.02)
        return found

    def url(self) -> str:
        """Where it listens, once it says so and answers."""
        url = self.wait_for(r"http://127\.0\.0\.1:\d+")[0]
        wait_until(lambda: is_alive(url))
        return url

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 30) -> int:
        """Send a signal; return the exit code once all output was read."""
        self.process.send_signal(number)
        code = self.process.wait(seconds)
        self._reader.join(5)
        return code


@contextmanager
def running(*arguments: str, cwd: Path, settings: Mapping[str, str] = NO_SETTINGS) -> Iterator[Program]:
    """Yield a program, and kill it at the end in any case."""
    program = Program(*arguments, cwd=cwd, settings=settings)
    try:
        yield program
    finally:
        program.process.kill()
        program.process.wait()
        program._reader.join(5)
        assert program.process.stdout is not None
        program.process.stdout.close()


def is_alive(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until the condition holds; fail when it does not in time."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"did not come true within {seconds} s"
        time.sleep(0.05)
