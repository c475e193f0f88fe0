"""What an honest client notices of each attack: a table of its latency, and of the server's memory.

python -m hostile.measure [SECONDS [CONNECTIONS [ATTACK...]]]
"""

import asyncio
import gzip
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from eventmill.api.keys import create_key, encode_keys
from eventmill.cli.output import print_table
from hostile.attacks import ATTACKS
from support.mill import Program, running

PERIOD_SECONDS = 0.01
REST_SECONDS = 10.0
QUIET_SECONDS = 5.0
LIMIT_MS = 25.0
_EVENT = b'{"event_name":"honest","channel":"web","user_id":"u","timestamp":1766717657,"metadata":{"n":%d}}'
_REQUEST = b"POST /events HTTP/1.1\r\nHost: localhost\r\nX-API-Key: %b\r\nContent-Length: %d\r\n\r\n%b"
_TESTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Latency:
    """Milliseconds of the honest client's requests, and how many were not accepted."""

    p50_ms: float
    p99_ms: float
    failed: int


@dataclass(frozen=True)
class Result:
    """What an attack did."""

    quiet: Latency
    during: Latency
    before_mib: float
    peak_mib: float
    after_mib: float

    @property
    def holds(self) -> bool:
        """Whether the honest client hardly noticed, and the memory came back."""
        is_fast = self.during.p99_ms <= max(LIMIT_MS, 2 * self.quiet.p99_ms)
        return is_fast and not self.during.failed and self.after_mib <= 1.1 * self.before_mib


def create_keys() -> tuple[dict[str, str], str, str]:
    """Settings with two keys, and their secrets: one of an honest client, and one of an attacker in another project."""
    (honest, a), (attacker, b) = create_key("write", "honest"), create_key("admin", "attacker")
    return {"EVENTMILL_ANONYMOUS": "false", "EVENTMILL_KEYS": encode_keys([a, b]).decode()}, honest, attacker


def start_attack(name: str, port: int, key: str, seconds: float, connections: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "hostile.attacks", name, str(port), str(seconds), str(connections)]
    return subprocess.Popen(command, cwd=_TESTS, env=os.environ | {"ATTACKER_KEY": key})


async def be_honest(port: int, key: str, seconds: float) -> Latency:
    """Post an event every 10 ms on one connection, and open another if the server closes it."""
    times: list[float] = []
    failed, number, writer = 0, 0, None
    until = time.monotonic() + seconds
    while (started := time.monotonic()) < until:
        number += 1
        body = _EVENT % time.time_ns()
        try:
            async with asyncio.timeout(10):
                if writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(_REQUEST % (key.encode(), len(body), body))
                answer = await reader.readuntil(b"}")
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            answer = b""
        times.append((time.monotonic() - started) * 1000)
        if b" 202 " not in answer[:20]:
            failed += 1
            if writer is not None:
                writer.transport.abort()
            writer = None
        await asyncio.sleep(max(0.0, PERIOD_SECONDS - (time.monotonic() - started)))
    if writer is not None:
        writer.close()
    times.sort()
    return Latency(times[len(times) // 2], times[int(len(times) * 0.99)], failed)


async def warm_up(url: str, write_key: str, read_key: str) -> None:
    """Do what a server has done before it is attacked: take compressed bulks, answer questions, and show its pages."""
    bulk = gzip.compress(b"\n".join(_EVENT % number for number in range(1000)))
    headers = {"X-API-Key": write_key, "Content-Encoding": "gzip", "Content-Type": "application/x-ndjson"}
    question = {"event_name": "honest", "from": "1", "to": "4000000000"}
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        posts = (client.post("/events/bulk", content=bulk, headers=headers) for _ in range(20))
        gets = (client.get("/metrics", params=question, headers={"X-API-Key": read_key}) for _ in range(20))
        pages = (client.get(page) for page in ("/openapi.json", "/docs/files/swagger-ui-bundle.js", "/nowhere"))
        answers = await asyncio.gather(*posts, *gets, *pages)
    assert [answer.status_code for answer in answers[:20]] == [202] * 20, answers


def memory_mib(program: Program, figure: str = "VmRSS") -> float:
    """The resident memory of the server, or its peak (VmHWM)."""
    status = Path(f"/proc/{program.process.pid}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith(f"{figure}:"))


def measure(name: str, seconds: float, connections: int) -> Result:
    """Run one attack against a server of its own: an API over SQLite, with chDB if the attack is about questions."""
    with tempfile.TemporaryDirectory() as folder:
        settings, honest, attacker = create_keys()
        command = "run" if name == "abandoned_questions" else "serve"
        if command == "serve":
            settings |= {"EVENTMILL_QUEUE": "sqlite", "EVENTMILL_QUEUE_SQLITE_PATH": f"{folder}/queue.db"}
            settings |= {"EVENTMILL_STORE": "none"}
        with running(command, "--listen", "127.0.0.1:0", cwd=Path(folder), settings=settings) as program:
            port = int(program.url().rpartition(":")[2])
            asyncio.run(warm_up(program.url(), honest, attacker))
            quiet = asyncio.run(be_honest(port, honest, QUIET_SECONDS))
            before = memory_mib(program)
            with start_attack(name, port, attacker, seconds, connections) as attack:
                time.sleep(1)
                during = asyncio.run(be_honest(port, honest, seconds - 1))
                attack.wait(seconds + 20)
            asyncio.run(be_honest(port, honest, REST_SECONDS))
            result = Result(quiet, during, before, memory_mib(program, "VmHWM"), memory_mib(program))
            code = program.stop()
            assert code == 0, program.output
            assert "Traceback" not in program.output, program.output
    return result


def main() -> None:
    seconds, connections = float((sys.argv[1:2] or ["10"])[0]), int((sys.argv[2:3] or ["500"])[0])
    rows = []
    for name in sys.argv[3:] or ATTACKS:
        result = measure(name, seconds, connections)
        quiet, during = result.quiet, result.during
        latencies = (quiet.p50_ms, quiet.p99_ms, during.p50_ms, during.p99_ms)
        memory = (result.before_mib, result.peak_mib, result.after_mib)
        figures = (*(f"{ms:.1f}" for ms in latencies), str(during.failed), *(f"{mib:.0f}" for mib in memory))
        rows.append((name, *figures, "yes" if result.holds else "NO"))
        sys.stderr.write(f"{name}: {'holds' if result.holds else 'DOES NOT HOLD'}\n")
    columns = (
        "attack",
        "quiet p50 ms",
        "quiet p99",
        "p50 during",
        "p99 during",
        "failed",
        "MiB before",
        "peak",
        "after",
    )
    print_table((*columns, "holds"), rows)
    sys.exit(0 if all(row[-1] == "yes" for row in rows) else 1)


if __name__ == "__main__":
    main()
