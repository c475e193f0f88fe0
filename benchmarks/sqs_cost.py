"""What SQS bills for a million events: counted by the SQS server of the tests, in units of 64 KiB.

The real commands run, `serve` and `consume`, over that server and ClickHouse's HTTP gateway. The real events are posted
one by one at a steady rate, or in bulks as fast as they are taken; all calls count, from the first post until the
queue is empty.
"""

import asyncio
import itertools
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from figures import Figure
from support import real_events, services
from support.mill import eventmill, running, wait_until

REFERENCE_UNITS = 2.1  # a call per event to send it, one per event to delete it, one per ten to receive them
SECONDS = 20
_CONNECTIONS = 512  # each waits a linger and more for its answer
_LATE = 1.25  # how much longer than planned the posting may take
_BULK = 1000


@contextmanager
def deployment(folder: Path, sqs: services.SqsServer, url: str, workers: int, linger_ms: int) -> Iterator[str]:
    """`serve` and `consume` over the SQS server; yields the API's address."""
    settings = services.AWS | {
        "EVENTMILL_QUEUE": "sqs",
        "EVENTMILL_QUEUE_SQS_URL": f"{sqs.endpoint}/000000000000/events",
        "EVENTMILL_STORE": "clickhouse",
        "EVENTMILL_STORE_CLICKHOUSE_URL": url,
        "EVENTMILL_LISTEN": "127.0.0.1:0",
        "EVENTMILL_LINGER_MS": str(linger_ms),
        "EVENTMILL_SHUTDOWN_DELAY_SECONDS": "0",
    }
    assert eventmill("migrate", cwd=folder, settings=settings).returncode == 0
    with (
        running("serve", "--workers", str(workers), cwd=folder, settings=settings) as api,
        running("consume", cwd=folder, settings=settings) as consumer,
    ):
        consumer.wait_for("consuming from")
        yield api.url()


def bodies() -> Iterator[bytes]:
    """The real events again and again, each a new one."""
    for number, line in enumerate(itertools.cycle(real_events.lines())):
        yield line.rstrip()[:-1] + b',"event_id":"%d"}' % number


async def post_singly(url: str, per_second: int, seconds: float) -> int:
    """Post events at a steady rate, over connections that stay open; return how many."""
    host, port = url.removeprefix("http://").split(":")
    source, started, posted = bodies(), time.monotonic(), itertools.count()

    async def post() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        while (number := next(posted)) < per_second * seconds:
            await asyncio.sleep(max(0.0, started + number / per_second - time.monotonic()))
            body = next(source)
            writer.write(b"POST /events HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 202"), head
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
        writer.close()

    await asyncio.gather(*(post() for _ in range(_CONNECTIONS)))
    took = time.monotonic() - started
    assert took < _LATE * seconds, f"{per_second} events/s were not reached: {took:.0f} s instead of {seconds:.0f}"
    return int(per_second * seconds)


async def post_in_bulks(url: str, seconds: float) -> int:
    """Post bulks as fast as they are taken; return how many events."""
    source, accepted = bodies(), 0
    until = time.monotonic() + seconds
    async with httpx.AsyncClient(timeout=30, headers={"Content-Type": "application/x-ndjson"}) as client:

        async def post() -> None:
            nonlocal accepted
            while time.monotonic() < until:
                reply = await client.post(f"{url}/events/bulk", content=b"\n".join(itertools.islice(source, _BULK)))
                accepted += reply.raise_for_status().json()["accepted"]

        await asyncio.gather(*(post() for _ in range(4)))
    return accepted


def measure(folder: Path, workers: int, linger_ms: int, per_second: int | None) -> float:
    """Units billed per event."""
    with ExitStack() as stack:
        sqs = stack.enter_context(services.running_sqs())
        clickhouse = stack.enter_context(services.running_clickhouse(folder / f"{workers}-{per_second}"))
        url = stack.enter_context(deployment(folder, sqs, clickhouse.url, workers, linger_ms))
        before = total(sqs.usage("units"))
        posting = post_singly(url, per_second, SECONDS) if per_second else post_in_bulks(url, SECONDS)
        events = asyncio.run(posting)
        wait_until(lambda: is_empty(sqs), 120)
        return (total(sqs.usage("units")) - before) / events


def total(usage: Mapping[str, int]) -> int:
    """The units of all that is done again and again; setting up and looking are not."""
    return sum(count for action, count in usage.items() if "Message" in action)


def is_empty(sqs: services.SqsServer) -> bool:
    return sqs.waiting("events") == 0


CASES = {
    # load: workers, linger in ms, events per second (None: as fast as bulks are taken), the bar in units per event
    "full load": (1, 20, None, 0.0025),
    "3000/s, 4 workers, linger 100 ms": (4, 100, 3000, 0.025),
    "500/s": (1, 20, 500, 0.15),
    "100/s": (1, 20, 100, 1.0),
}


def cost() -> list[Figure]:
    """Units per event at four loads, against a service with a call per event."""
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for load, (workers, linger_ms, per_second, bar) in CASES.items():
            units = measure(Path(folder), workers, linger_ms, per_second)
            of = f"a call per event: {REFERENCE_UNITS}"
            figures.append(
                Figure(f"sqs_cost, {load}", of, "units billed", units, REFERENCE_UNITS, [units], at_most=bar)
            )
    return figures
