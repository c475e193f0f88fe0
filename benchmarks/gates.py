"""What a deployment must keep to beside losing nothing: the gates that `soak.py` goes through after the crashes.

An outage of the store leaves no dead letters, and the backlog shrinks three times as fast as new events come; sending
everything again changes no number; with the queue away the API answers 503 and does not grow; SIGTERM under load ends
within 20 seconds and leaves nothing to redeliver. Latency, freshness and cost are measured on the way.
"""

import asyncio
import itertools
import json
import resource
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import httpx

from deployments import Deployment, Outage
from support.mill import Program, eventmill, running, wait_until

RATE = 200  # events per second
DRAIN_RATIO = 3.0
GROWTH_MIB = 10.0
LEAVE_SECONDS = 20.0
DRAIN_SECONDS = 120.0
EVENT_NAME = "soak"
TIMESTAMP = 1_700_000_000


class Gates:
    """A deployment's programs, the events they accepted, and what was found out."""

    _api: Program
    _consumer: Program
    _url: str

    def __init__(self, deployment: Deployment, folder: Path, seconds: float) -> None:
        self._deployment = deployment
        self._folder = folder
        self._seconds = seconds
        self._settings = dict(deployment.settings) | {"EVENTMILL_SHUTDOWN_DELAY_SECONDS": "0"}
        self._is_whole = not deployment.settings  # API and consumer in one program
        self._numbers = itertools.count()
        self._accepted: list[int] = []
        self._refused: list[int] = []
        self._latencies: list[float] = []
        self.figures: dict[str, float] = {}
        self.failed: list[str] = []

    def run(self) -> None:
        """Go through them all."""
        with ExitStack() as stack:
            self._stack = stack
            self._start_all()
            self._serve()
            if self._deployment.store:
                self._lose_store(self._deployment.store)
            if self._deployment.queue:
                self._lose_queue(self._deployment.queue)
            self._replay()
            self._leave()

    # the gates

    def _serve(self) -> None:
        """A good day: how long callers wait, how fresh the numbers are, what it costs."""
        before = self._billed()
        self._post(self._seconds)
        self._drain()
        percentiles = statistics.quantiles(self._latencies, n=100)
        self.figures |= {"p50_ms": round(percentiles[49] * 1000, 1), "p99_ms": round(percentiles[98] * 1000, 1)}
        if self._deployment.usage:
            self.figures["units_per_event"] = round((self._billed() - before) / len(self._accepted), 4)
        self.figures["fresh_ms"] = round(1000 * statistics.median(self._freshness() for _ in range(9)))
        self._expect("every event is accepted on a good day", not self._refused)

    def _lose_store(self, store: Outage) -> None:
        """The store is unavailable while events arrive and consumers are killed; then it is back."""
        stored = self._total()
        with store.lasting():
            for _ in range(4):
                self._post(self._seconds / 4)
                self._consumer.process.kill()
                self._consumer = self._start("consume")
        backlog = len(self._accepted)
        mended = time.monotonic()
        while (total := self._total()) < backlog:
            self._post(0.2)
        took = time.monotonic() - mended
        ratio = (total - stored) / took / RATE
        self.figures |= {"drain_seconds": round(took, 1), "drain_ratio": round(ratio, 1)}
        self._expect("the backlog drains three times as fast as events come", ratio >= DRAIN_RATIO)
        self._expect("nothing is refused while the store is away", not self._refused)
        self._expect("an outage leaves no dead letters", self._details()["dead"] == 0)

    def _lose_queue(self, queue: Outage) -> None:
        """While the queue is unavailable, the API responds 503 and does not grow."""
        with queue.lasting():
            self._post(self._seconds / 4)
            before = self._resident_mib()
            self._post(self._seconds)
            grown = round(self._resident_mib() - before, 1)
        self.figures |= {"refused": len(self._refused), "grown_mib": grown}
        self._expect("callers are refused while the queue is away", bool(self._refused))
        self._expect("nothing grows while the queue is away", grown < GROWTH_MIB)
        self._repeat()

    def _replay(self) -> None:
        """Everything is sent again."""
        self._drain()
        before = self._total()
        file = self._folder / "events.ndjson"
        file.write_text("\n".join(json.dumps(event(number)) for number in self._accepted))
        done = eventmill("send", str(file), "--url", self._url, cwd=self._folder)
        self._drain()
        self._expect("everything can be sent again", done.returncode == 0)
        self._expect("sending everything again changes no number", self._total() == before)

    def _leave(self) -> None:
        """SIGTERM while events come: the consumer, then the API."""
        for program in dict.fromkeys((self._consumer, self._api)):
            self._expect("leaving takes less than 20 s", self._terminate(program) < LEAVE_SECONDS)
            self._expect("leaving is a success", program.process.returncode == 0)
            self._expect("a consumer that leaves releases nothing", "leaving with" not in program.output)
        command = ["status", "--json", *(["--data", str(self._data)] if self._is_whole else [])]
        status = json.loads(eventmill(*command, cwd=self._folder, settings=self._settings).stdout)
        self._expect("nothing is left to redeliver", status["in_flight"] == 0)
        self._start_all()
        self._repeat()
        self.figures |= {"accepted": len(self._accepted), "stored": self._total(), "dead": self._details()["dead"]}
        self._expect("every event is stored exactly once", self.figures["stored"] == self.figures["accepted"])
        self._expect("there are no dead letters", self.figures["dead"] == 0)

    def _terminate(self, program: Program) -> float:
        """Send SIGTERM in the middle of the load; return how many seconds it took to end."""

        def end() -> float:
            time.sleep(1)
            told = time.monotonic()
            program.stop(seconds=2 * LEAVE_SECONDS)
            return time.monotonic() - told

        with ThreadPoolExecutor() as pool:
            ending = pool.submit(end)
            self._post(3)
            took = ending.result()
        self.figures["leave_seconds"] = round(max(took, self.figures.get("leave_seconds", 0)), 1)
        return took

    # what they need

    def _expect(self, promise: str, kept: bool) -> None:
        if not kept:
            self.failed.append(promise)

    def _start_all(self) -> None:
        self._api = self._start(*(["run", "--data", str(self._data)] if self._is_whole else ["serve"]))
        self._consumer = self._api if self._is_whole else self._start("consume")
        self._url = self._api.url()

    def _start(self, *arguments: str) -> Program:
        listen = [] if arguments[0] == "consume" else ["--listen", "127.0.0.1:0"]
        return self._stack.enter_context(running(*arguments, *listen, cwd=self._folder, settings=self._settings))

    def _post(self, seconds: float) -> None:
        """Post new events for this long."""
        self._send([next(self._numbers) for _ in range(max(1, int(seconds * RATE)))], RATE)

    def _repeat(self) -> None:
        """Send again what was refused, as a client does; then all is well."""
        refused, self._refused = self._refused, []
        self._send(refused, RATE * 2)
        self._expect("what was refused is accepted later", not self._refused)
        self._drain()

    def _send(self, numbers: Sequence[int], rate: float) -> None:
        answers = asyncio.run(send(self._url, numbers, rate))
        known = set(self._accepted)
        for number, seconds in answers:
            if seconds is None:
                self._refused.append(number)
            elif number not in known:
                self._accepted.append(number)
                self._latencies.append(seconds)

    def _drain(self) -> None:
        wait_until(lambda: self._details()["ready"] == self._details()["in_flight"] == 0, DRAIN_SECONDS)

    def _freshness(self) -> float:
        """Seconds from the 202 for an event until it is counted."""
        before = self._total()
        self._send([next(self._numbers)], RATE)
        accepted = time.monotonic()
        wait_until(lambda: self._total() > before)
        return time.monotonic() - accepted

    def _details(self) -> dict[str, Any]:
        return dict(httpx.get(f"{self._url}/status", timeout=10).raise_for_status().json())

    def _total(self) -> int:
        """Return how many events are counted; 0 while the store is unavailable."""
        question: dict[str, str | int] = {"event_name": EVENT_NAME, "from": TIMESTAMP, "to": TIMESTAMP}
        answer = httpx.get(f"{self._url}/metrics", params=question, timeout=10)
        return int(answer.json()["total_count"]) if answer.status_code == 200 else 0

    def _billed(self) -> int:
        usage = self._deployment.usage() if self._deployment.usage else {}
        return sum(count for action, count in usage.items() if "Message" in action)

    def _resident_mib(self) -> float:
        """The memory of the programs."""
        pids = {self._api.process.pid, self._consumer.process.pid}
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
        return pages * resource.getpagesize() / 2**20

    @property
    def _data(self) -> Path:
        return self._folder / "eventmill-data"


def event(number: int) -> dict[str, Any]:
    names = {"event_name": EVENT_NAME, "channel": "soak", "user_id": f"user {number % 100}"}
    return names | {"event_id": str(number), "timestamp": TIMESTAMP}


async def send(url: str, numbers: Sequence[int], rate: float) -> list[tuple[int, float | None]]:
    """Post the events of these numbers at a steady rate; the seconds until each 202, None for a refusal."""
    connector, patience = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(10)
    async with aiohttp.ClientSession(url, connector=connector, timeout=patience) as client:

        async def post(number: int) -> tuple[int, float | None]:
            started = time.monotonic()
            try:
                async with client.post("/events", json=event(number)) as reply:
                    return number, time.monotonic() - started if reply.status == 202 else None
            except (aiohttp.ClientError, TimeoutError):
                return number, None

        posts = []
        started = time.monotonic()
        for index, number in enumerate(numbers):
            posts.append(asyncio.create_task(post(number)))
            await asyncio.sleep(max(0.0, started + (index + 1) / rate - time.monotonic()))
        return await asyncio.gather(*posts)
