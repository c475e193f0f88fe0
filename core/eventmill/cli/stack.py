"""The programs of a deployment, started, killed and started again: the API and the consumer, or both in one."""

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

from eventmill.cli.backends import Choice
from eventmill.errors import Unavailable

START_SECONDS = 60.0
STOP_SECONDS = 40.0
LEAVE_SECONDS = 10.0  # after an early end
POST_SECONDS = 10.0


class Stack:
    """`serve` and `consume`, or `run` where a backend lives in one process, at an address that stays."""

    def __init__(self, choice: Choice, environment: Mapping[str, str], folder: Path) -> None:
        reaches = {choice.queue.settings.reach, choice.need_store().settings.reach}
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
                await self.stop(LEAVE_SECONDS)  # killed ones would keep their leases
        finally:
            for program in self._programs.values():
                if program.returncode is None:
                    program.kill()
                    await program.wait()
            await self._client.aclose()

    async def post(self, event: Mapping[str, Any]) -> bool:
        """Whether the API accepted it; one that is down or refuses did not."""
        try:
            reply = await self._client.post("/events", json=event)
        except httpx.HTTPError:
            return False
        return reply.status_code == 202

    async def crash(self, *, kill9: bool) -> None:
        """End a program chosen by chance, and start it again."""
        async with self._lock:
            number = random.choice(list(self._programs))
            program = self._programs[number]
            if program.returncode is None:
                program.send_signal(signal.SIGKILL if kill9 else signal.SIGTERM)
                await program.wait()
            await self._start(number)

    async def revive(self) -> None:
        """Start what does not run, and wait until the API answers. Raises Unavailable when it does not."""
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
                raise Unavailable(f"the API does not answer. The programs said: {self._last_words()}")
            await asyncio.sleep(0.1)

    async def stop(self, seconds: float = STOP_SECONDS) -> None:
        """End all programs as a deployment does. Raises Unavailable when they do not end in time."""
        for program in self._programs.values():
            if program.returncode is None:
                program.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(program.wait() for program in self._programs.values()))
        except TimeoutError:
            raise Unavailable(f"the programs do not end. They said: {self._last_words()}") from None

    async def _start(self, number: int) -> None:
        # Shielded: a program that is being started must not be forgotten when this is cancelled.
        start = asyncio.ensure_future(self._spawn(number))
        self._starts.append(start)
        await asyncio.shield(start)

    async def _spawn(self, number: int) -> None:
        command = [sys.executable, "-m", "eventmill", *self._commands[number]]
        with self._log.open("ab") as output:
            self._programs[number] = await asyncio.create_subprocess_exec(
                *command, env=self._environment, stdout=output, stderr=output
            )

    def _last_words(self) -> str:
        return " | ".join(self._log.read_text(errors="replace").splitlines()[-5:])

    async def _is_alive(self) -> bool:
        try:
            return (await self._client.get("/health")).status_code == 200
        except httpx.HTTPError:
            return False
