"""Stack: the programs of a deployment, which the crash test starts, kills and starts again."""

import asyncio
import contextlib
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from eventmill.errors import Unavailable
from eventmill.runtime.backends import Choice

START_SECONDS = 60.0
STOP_SECONDS = 40.0
ABORT_SECONDS = 10.0
POST_SECONDS = 10.0


class Stack:
    """`serve` and `consume`, or `run` if a backend lives in one process, at a fixed address."""

    def __init__(self, choice: Choice, environment: Mapping[str, str], folder: Path) -> None:
        reaches = {choice.queue.settings.reach, choice.require_store().settings.reach}
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self._address = f"127.0.0.1:{listener.getsockname()[1]}"
        api = ["--listen", self._address]
        self._commands = [["run", *api]] if "process" in reaches else [["serve", *api], ["consume"]]
        self._environment = os.environ | dict(environment)
        self._log = folder / "stack.log"
        self._programs: dict[int, asyncio.subprocess.Process] = {}
        self._starts: list[asyncio.Future[None]] = []
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> "Stack":
        self._client = httpx.AsyncClient(base_url=f"http://{self._address}", timeout=POST_SECONDS)
        try:
            await self.revive()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*self._starts, return_exceptions=True)
        try:
            with contextlib.suppress(Unavailable):
                await self.stop(ABORT_SECONDS)  # a killed program would keep its leases
        finally:
            for program in self._programs.values():
                if program.returncode is None:
                    program.kill()
                    await program.wait()
            await self._client.aclose()

    async def post(self, event: Mapping[str, Any]) -> bool:
        """Post an event; return whether the API accepted it."""
        try:
            reply = await self._client.post("/events", json=event)
        except httpx.HTTPError:
            return False
        return reply.status_code == 202

    async def crash(self, *, kill9: bool) -> None:
        """End a random program, and start it again."""
        async with self._lock:
            number = random.choice(list(self._programs))
            program = self._programs[number]
            if program.returncode is None:
                program.send_signal(signal.SIGKILL if kill9 else signal.SIGTERM)
                await program.wait()
            await self._start(number)

    async def revive(self) -> None:
        """Start every program that does not run, and wait until the API answers. Raise Unavailable if it does not."""
        until = time.monotonic() + START_SECONDS
        while True:
            async with self._lock:
                for number in range(len(self._commands)):
                    program = self._programs.get(number)
                    if program is None or program.returncode is not None:
                        await self._start(number)
            if await self._is_alive():
                return
            if time.monotonic() > until:
                raise Unavailable(f"the API does not answer. The end of its log: {self._log_end()}")
            await asyncio.sleep(0.1)

    async def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Stop all programs with SIGTERM. Raise Unavailable if they do not end in time."""
        for program in self._programs.values():
            if program.returncode is None:
                program.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(program.wait() for program in self._programs.values()))
        except TimeoutError:
            raise Unavailable(f"the programs do not end. The end of their log: {self._log_end()}") from None

    async def _start(self, number: int) -> None:
        # Shielded, so that a program which is being started is recorded even if this call is cancelled.
        start = asyncio.ensure_future(self._spawn(number))
        self._starts.append(start)
        await asyncio.shield(start)

    async def _spawn(self, number: int) -> None:
        command = [sys.executable, "-m", "eventmill", *self._commands[number]]
        with self._log.open("ab") as output:
            self._programs[number] = await asyncio.create_subprocess_exec(
                *command, env=self._environment, stdout=output, stderr=output
            )

    def _log_end(self) -> str:
        return " | ".join(self._log.read_text(errors="replace").splitlines()[-5:])

    async def _is_alive(self) -> bool:
        try:
            return (await self._client.get("/health")).status_code == 200
        except httpx.HTTPError:
            return False
