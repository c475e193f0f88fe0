"""HTTP load from wrk on one core, and the CPU time of a server on the other."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

SERVER_CPU, CLIENT_CPU = "0", "1"
CONNECTIONS = 250
_TICKS = os.sysconf("SC_CLK_TCK")

# Each request has another number in place of ten digits, so that no two events are one.
_SCRIPT = """
local head, tail, n = %s, %s, 0
request = function() n = n + 1; return head .. string.format("%%010d", n) .. tail end
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format('{"requests": %%d, "us": %%d, "errors": %%d, "p50_us": %%d, "p99_us": %%d}\\n',
    summary.requests, summary.duration, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass(frozen=True)
class Load:
    """What came of it."""

    per_second: float
    cpu_us: float  # of the server, per request
    p50_ms: float
    p99_ms: float


def post(
    url: str,
    path: str,
    body: bytes,
    pid: int,
    seconds: float,
    *,
    connections: int = CONNECTIONS,
    headers: str = "",
) -> Load:
    """POST the body again and again, `{number}` in it replaced by ten digits; fails on anything but 2xx answers."""
    kind = "x-ndjson" if b"\n" in body else "json"
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/{kind}\r\n{headers}"
    before, number, after = body.partition(b"{number}")
    length = len(before) + len(after) + (10 if number else 0)
    head_bytes = f"{head}Content-Length: {length}\r\n\r\n".encode() + before
    script = _SCRIPT % (_lua(head_bytes), _lua(after))
    if not number:
        script = script.replace('string.format("%010d", n)', '""')
    with TemporaryDirectory() as folder:
        file = Path(folder) / "post.lua"
        file.write_bytes(script.encode("latin-1"))
        command = [
            "taskset",
            "-c",
            CLIENT_CPU,
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{seconds}s",
            "--timeout",
            "10s",
            "-s",
            str(file),
            url,
        ]
        started = cpu_seconds(pid)
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        used = cpu_seconds(pid) - started
    found = re.search(r"\{.*\}", done.stdout)
    assert found, done.stdout
    result = json.loads(found[0])
    assert not result["errors"], done.stdout
    per_second = result["requests"] / result["us"] * 1e6
    return Load(per_second, used / result["requests"] * 1e6, result["p50_us"] / 1000, result["p99_us"] / 1000)


def _lua(text: bytes) -> str:
    """A Lua string of these bytes."""
    return '"' + "".join(f"\\{byte:03d}" for byte in text) + '"'


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def cpu_ms(pid: int) -> float:
    """CPU time that the threads of a process have used so far, to the nanosecond."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e6


def resident_mb(pid: int) -> float:
    """Resident memory of a process, in 10^6 bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


def pin(pid: int, cpu: str) -> None:
    """Keep a process, with all its threads, on one core."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {int(cpu)})


def need_wrk() -> None:
    """Exit with a message if the load generator is missing."""
    if missing := [name for name in ("wrk", "taskset") if shutil.which(name) is None]:
        sys.exit(f"{' and '.join(missing)} missing: install them (Debian, Ubuntu: apt-get install wrk util-linux)")
