"""A deployment on Redis and ClickHouse's HTTP interface: how fresh its answers are, how much memory it takes."""

import asyncio
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import aiohttp

import deployments
from figures import Figure, alone
from load import need_wrk, post, resident_mb
from sqs_cost import post_singly
from support.mill import Program, eventmill, running

RATE, FRESH_SECONDS, FRESH_BAR_S = 2000, 15, 1.5
LOAD_SECONDS, WARM_SECONDS = 60, 10
AROUND_SECONDS = 3
SERVE_BAR_MB, CONSUME_BAR_MB, FLAT_BAR = 120, 200, 1.1
EVENT = b'{"event_name":"load","channel":"web","user_id":"{number}","timestamp":1700000000}'


@contextmanager
def deployed() -> Iterator[tuple[Program, Program]]:
    """`serve` and `consume`."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        deployment = stack.enter_context(deployments.redis(Path(name)))
        settings = dict(deployment.settings) | {"EVENTMILL_SHUTDOWN_DELAY_SECONDS": "0"}
        settings["EVENTMILL_QUEUE_REDIS_LEASE_SECONDS"] = "60"
        done = eventmill("migrate", cwd=Path(name), settings=settings)
        assert done.returncode == 0, done.stderr
        consumer = stack.enter_context(running("consume", cwd=Path(name), settings=settings))
        consumer.wait_for("consuming from")
        listen = ("--listen", "127.0.0.1:0")
        yield stack.enter_context(running("serve", *listen, cwd=Path(name), settings=settings)), consumer


def fresh() -> list[Figure]:
    """From the 202 until the event is counted, while 2 000 events/s come."""
    with deployed() as (api, _):
        seconds = asyncio.run(_freshness(api.url()))
    p95 = statistics.quantiles(seconds, n=20)[-1]
    return [alone(f"fresh, p95 at {RATE} events/s", "s", [p95], at_most=FRESH_BAR_S)]


async def _freshness(url: str) -> list[float]:
    async with aiohttp.ClientSession(url) as client:

        async def probe(number: int) -> float:
            event = {"event_name": f"fresh_{number}", "channel": "web", "user_id": "1", "timestamp": 1_700_000_000}
            async with client.post("/events", json=event) as answer:
                assert answer.status == 202
            accepted = time.monotonic()
            question = f"/metrics?event_name=fresh_{number}&from=1700000000&to=1700000000"
            while True:
                async with client.get(question) as answer:
                    if (await answer.json())["total_count"]:
                        return time.monotonic() - accepted
                await asyncio.sleep(0.02)

        load = asyncio.create_task(post_singly(url, RATE, FRESH_SECONDS))
        probes = []
        for number in itertools.count():
            if load.done():
                break
            probes.append(asyncio.create_task(probe(number)))
            await asyncio.sleep(0.25)
        await load
        return await asyncio.gather(*probes)


def memory() -> list[Figure]:
    """Resident memory of both halves under a minute of full load, and how much of it came after ten seconds.

    The growth compares medians over some seconds: a batch more or less at one moment is no growth.
    """
    need_wrk()
    with deployed() as (api, consumer):
        url = api.url()
        sizes = []
        with ThreadPoolExecutor() as pool:
            load = pool.submit(post, url, "/events", EVENT, api.process.pid, LOAD_SECONDS)
            while not load.done():
                time.sleep(1)
                sizes.append((resident_mb(api.process.pid), resident_mb(consumer.process.pid)))
            load.result()
    figures = []
    bars = {"serve": SERVE_BAR_MB, "consume": CONSUME_BAR_MB}
    for (name, bar), own in zip(bars.items(), zip(*sizes, strict=True), strict=True):
        later = max(own[WARM_SECONDS:])
        figures.append(alone(f"memory, {name}, most under full load", "MB", [later], at_most=bar))
        growth = statistics.median(own[-2 * AROUND_SECONDS :]) / statistics.median(
            own[WARM_SECONDS - AROUND_SECONDS : WARM_SECONDS + AROUND_SECONDS]
        )
        figures.append(alone(f"memory, {name}, after a minute to after 10 s", "ratio", [growth], at_most=FLAT_BAR))
    return figures
