"""Events through SQS, packed, against one SendMessage per event through the same client."""

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from figures import Figure, alone, compare, in_turn
from ingest import event
from load import SERVER_CPU, need_wrk, post
from servers import HERE, Server, serving
from sqs_cost import total
from support import real_events, services
from support.mill import eventmill

ROUNDS, SECONDS = 3, 5
BULK_EVENTS = 1000
RATE_BAR, UNITS_BAR = 15.0, 200.0
TAIL_BAR = 2.5  # the 99th percentile of single posts at full load, over their median


def ingest() -> list[Figure]:
    """Bulks of real events: how many a second, and what is billed for each."""
    need_wrk()
    with tempfile.TemporaryDirectory() as folder, services.running_sqs() as sqs:
        url = f"{sqs.endpoint}/000000000000/events"
        settings = services.AWS | {"EVENTMILL_QUEUE": "sqs", "EVENTMILL_QUEUE_SQS_URL": url}
        done = eventmill("migrate", cwd=Path(folder), settings=settings | {"EVENTMILL_STORE": "none"})
        assert done.returncode == 0, done.stderr
        with serving(Path(folder), settings) as server:
            rounds = in_turn(ROUNDS, partial(_packed, server, sqs), partial(_single, sqs, url))
            [tails] = in_turn(ROUNDS, partial(_tail, server))
    of = "one SendMessage per event"
    rates, units = ([[pair[part] for pair in side] for side in rounds] for part in (0, 1))
    return [
        compare("ingest_sqs", of, "events/s", *rates, at_least=RATE_BAR),
        compare("ingest_sqs", of, "units billed per event", *units, inverse=True, at_least=UNITS_BAR),
        alone("ingest_sqs, single posts", "p99 / p50", tails, at_most=TAIL_BAR),
    ]


def _tail(server: Server) -> float:
    """The 99th percentile over the median of what single posts wait, at full load."""
    load = post(server.url, "/events", event(), server.pid, SECONDS)
    return load.p99_ms / load.p50_ms


def _packed(server: Server, sqs: services.SqsServer) -> tuple[float, float]:
    """Events a second through `eventmill serve`, and units billed per event."""
    before = total(sqs.usage("units"))
    body = b"\n".join(real_events.lines()[:BULK_EVENTS])
    load = post(server.url, "/events/bulk", body, server.pid, SECONDS, connections=8)
    events = load.per_second * SECONDS * BULK_EVENTS
    return load.per_second * BULK_EVENTS, (total(sqs.usage("units")) - before) / events


def _single(sqs: services.SqsServer, url: str) -> tuple[float, float]:
    """The same for a program that sends each event by itself."""
    before = total(sqs.usage("units"))
    command = ["taskset", "-c", SERVER_CPU, sys.executable, str(HERE / "send_singly.py"), url, str(SECONDS)]
    lines = b"\n".join(real_events.lines())
    done = subprocess.run(command, input=lines, env=os.environ | services.AWS, capture_output=True, check=True)
    events = int(done.stdout)
    return events / SECONDS, (total(sqs.usage("units")) - before) / events
