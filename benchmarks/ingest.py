"""How fast events are taken: one by one over three queues, and in bulks."""

import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from eventmill.api.keys import create_key, encode_keys
from figures import Figure, compare, in_turn
from load import CLIENT_CPU, SERVER_CPU, Load, need_wrk, pin, post
from servers import Server, serving, serving_script
from support import real_events, services

ROUNDS, SECONDS = 3, 4
KEY_ROUNDS = 11  # a difference of some percent needs more rounds on a noisy machine
BULK_EVENTS = 1000
# At least so much of the requests/s of an endpoint that does nothing, in the same app.
BARS = {"memory": 0.55, "redis": 0.45, "sqlite": 0.40}
EMPTY_PROGRAM_BAR = 0.50
ORDINARY_BAR = 3.0
BULK_BAR = 0.45
KEY_BAR = 1 / 1.1  # a key costs at most a tenth more


def single() -> list[Figure]:
    """POST /events over three queues against an empty endpoint of the same app, which goes FastAPI's whole way; against
    an empty program on the same server, which is the limit; over Redis against an ordinary route."""
    need_wrk()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        options = ("--appendonly", "yes", "--appendfsync", "no")
        redis = stack.enter_context(services.running_redis(folder / "redis", *options))
        assert redis.process is not None
        pin(redis.process.pid, CLIENT_CPU)
        queues = {
            "memory": {"EVENTMILL_QUEUE": "emptied"},
            "redis": {"EVENTMILL_QUEUE": "redis", "EVENTMILL_QUEUE_REDIS_URL": redis.url},
            "sqlite": {"EVENTMILL_QUEUE": "sqlite", "EVENTMILL_QUEUE_SQLITE_PATH": str(folder / "queue.db")},
        }
        figures = []
        for queue, settings in queues.items():
            with serving(folder, settings) as server:
                ours, empty = in_turn(ROUNDS, partial(_post, server), partial(_post, server, "/empty/"))
                figures += _figures(f"ingest_single, {queue}", "an empty endpoint in the app", ours, empty, BARS[queue])
        with serving(folder, queues["memory"]) as server, serving_script("empty_asgi.py") as bare:
            ours, theirs = in_turn(ROUNDS, partial(_post, server), partial(_post, bare))
            figures += _figures(
                "ingest_single, memory", "an empty program on the same server", ours, theirs, EMPTY_PROGRAM_BAR
            )
        with (
            serving(folder, queues["redis"]) as server,
            serving_script("ordinary.py", redis.url) as ordinary,
        ):
            ours, theirs = in_turn(ROUNDS, partial(_post, server), partial(_post, ordinary))
            figures += _figures("ingest_single, redis", "a FastAPI route and XADD", ours, theirs, ORDINARY_BAR)
    return figures


def keyed() -> list[Figure]:
    """POST /events with a key against the same server without keys, by CPU time."""
    need_wrk()
    secret, key = create_key("write", "default")
    settings = {"EVENTMILL_QUEUE": "emptied"}
    keys = {"EVENTMILL_ANONYMOUS": "false", "EVENTMILL_KEYS": encode_keys([key]).decode()}
    with (
        tempfile.TemporaryDirectory() as name,
        serving(Path(name), settings) as anonymous,
        serving(Path(name), settings | keys) as server,
    ):
        with_key = partial(_post, server, headers=f"Authorization: Bearer {secret}\r\n")
        ours, theirs = in_turn(KEY_ROUNDS, with_key, partial(_post, anonymous))
    costs = [load.cpu_us for load in ours], [load.cpu_us for load in theirs]
    return [compare("ingest_keyed", "no key", "µs of CPU per request", *costs, inverse=True, at_least=KEY_BAR)]


def _post(server: Server, path: str = "/events", headers: str = "") -> Load:
    return post(server.url, path, event(), server.pid, SECONDS, headers=headers)


def event() -> bytes:
    """A real event with another user each time."""
    event = json.loads(real_events.lines()[0])
    return json.dumps(event | {"user_id": "{number}"}, separators=(",", ":")).encode()


def _figures(name: str, of: str, ours: list[Load], theirs: list[Load], at_least: float | None = None) -> list[Figure]:
    rates = [load.per_second for load in ours], [load.per_second for load in theirs]
    costs = [load.cpu_us for load in ours], [load.cpu_us for load in theirs]
    return [
        compare(name, of, "requests/s", *rates, at_least=at_least),
        compare(name, of, "µs of CPU per request", *costs, inverse=True, at_least=at_least),
    ]


def bulk() -> list[Figure]:
    """Bulks of 1 000 real events against the calls into C libraries that no program can avoid, by CPU time."""
    need_wrk()
    body = b"\n".join(real_events.lines()[:BULK_EVENTS])
    with tempfile.TemporaryDirectory() as name, serving(Path(name), {"EVENTMILL_QUEUE": "emptied"}) as server:

        def ours() -> float:
            load = post(server.url, "/events/bulk", body, server.pid, SECONDS, connections=4)
            return load.cpu_us / BULK_EVENTS

        costs = in_turn(ROUNDS, ours, partial(_needed, body))
    of = "decoding, hashing, encoding and compressing in C"
    return [compare("ingest_bulk", of, "µs of CPU per event", *costs, inverse=True, at_least=BULK_BAR)]


# For each event: decode it and its metadata, hash its content, encode it; for each bulk: split it, compress the lines.
_NEEDED = """
import sys, time
from hashlib import blake2b
import msgspec
from eventmill.event import encode_line
from eventmill.frames import encode_frame
from eventmill.ingest.validation import SentEvent, parse_event
body = sys.stdin.buffer.read()
now_ms = time.time_ns() // 1_000_000
events = [parse_event(line, "default", now_ms) for line in body.split(b"\\n")]
decode, decode_metadata = msgspec.json.Decoder(SentEvent).decode, msgspec.json.Decoder().decode
encode = msgspec.json.Encoder().encode
count, started = 0, time.process_time()
while (used := time.process_time() - started) < float(sys.argv[1]):
    lines = []
    for line, event in zip(body.split(b"\\n"), events):
        sent = decode(line)
        decode_metadata(sent.metadata)
        digest = blake2b(encode(msgspec.structs.astuple(sent)), digest_size=16).digest()
        lines.append(encode(event))
    encode_frame(lines)
    encode([event.event_id for event in events])
    count += len(lines)
print(used / count * 1e6)
"""


def _needed(body: bytes) -> float:
    """Microseconds of CPU per event for these calls alone."""
    command = ["taskset", "-c", SERVER_CPU, sys.executable, "-c", _NEEDED, str(SECONDS / 2)]
    return float(subprocess.run(command, input=body, capture_output=True, check=True).stdout)
