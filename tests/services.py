"""Services that tests need: from the environment, or started here as real programs."""

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import httpx
from dotenv import dotenv_values

PASSWORD = "pass word/é@"  # noqa: S105 (of a server that lives for a test)
IMAGES = dotenv_values(Path(__file__).parents[1] / "compose" / ".env")
GATEWAY = Path(__file__).parent / "clickhouse_gateway.py"


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
        """Let the next inserts, or questions, and only so many, fail in this way."""
        fault = {"kind": kind, "count": str(count), "on": on}
        httpx.post(f"http://127.0.0.1:{self.port}/fault", params=fault).raise_for_status()


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
        from testcontainers.core.config import testcontainers_config
        from testcontainers.core.container import DockerContainer
        from testcontainers.core.wait_strategies import HttpWaitStrategy

        testcontainers_config.ryuk_disabled = True  # one container, which the `with` below ends
        ready = HttpWaitStrategy(8123, "/ping").for_status_code(200)
        with (
            DockerContainer(image)
            .with_env("CLICKHOUSE_PASSWORD", PASSWORD)
            .with_exposed_ports(8123)
            .waiting_for(ready) as container
        ):
            address = f"{container.get_container_host_ip()}:{container.get_exposed_port(8123)}"
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
