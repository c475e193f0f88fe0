"""Control of a server process for the contract suites: kill, start, freeze, resume."""

import asyncio
import signal
import subprocess
from typing import Any, Protocol

from eventmill.testing import Server


class Startable(Protocol):
    """A server of `services` with a process that can be killed and started again."""

    process: subprocess.Popen[Any] | None

    def start(self) -> None: ...

    def kill(self) -> None: ...


class ProcessControl(Server):
    """Controls the process of a server. Starting may block for a while, so it runs in a thread."""

    def __init__(self, service: Startable) -> None:
        self._service = service

    async def stop(self) -> None:
        await asyncio.to_thread(self._service.kill)

    async def start(self) -> None:
        await asyncio.to_thread(self._service.start)

    async def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    async def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._service.process is not None:
            self._service.process.send_signal(number)
