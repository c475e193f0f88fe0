"""Outages: a command that the user provides stops and starts the servers."""

import asyncio
import contextlib
import random
import shlex
import shutil
import subprocess
from pathlib import Path
from types import TracebackType

from eventmill.errors import ConfigurationError, Unavailable

OUTAGE_SECONDS = (0.5, 5.0)
COMMAND_SECONDS = 60.0


class Outages:
    """Calls `COMMAND stop` and `COMMAND start` in turn. The last call is always `start`."""

    def __init__(self, command: str, folder: Path) -> None:
        try:
            self._command = shlex.split(command)
        except ValueError as error:
            raise ConfigurationError(f"--outage-command: {error}") from None
        if not self._command or shutil.which(self._command[0]) is None:
            raise ConfigurationError(f"--outage-command: the program {command!r} does not exist")
        self._log = folder / "outages.log"
        self._call: asyncio.Future[None] | None = None
        self._is_down = False

    async def __aenter__(self) -> "Outages":
        try:
            await self._run("start")
        except Unavailable as error:
            raise ConfigurationError(
                f"--outage-command: {error}; `start` must also succeed while the servers run"
            ) from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._call is not None:
            await asyncio.gather(self._call, return_exceptions=True)
        if self._is_down:
            await self._run("start")

    async def cause_one(self, max_seconds: float) -> None:
        """Stop the servers, and start them again after a random time. Raise Unavailable if the command fails."""
        self._is_down = True
        await self._run("stop")
        await asyncio.sleep(random.uniform(OUTAGE_SECONDS[0], max_seconds))
        await self._run("start")
        self._is_down = False

    def start(self) -> None:
        """Start the servers if they are down, synchronously, for a process whose event loop has ended."""
        if self._is_down:
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                subprocess.run([*self._command, "start"], timeout=COMMAND_SECONDS, check=False)  # noqa: S603 (the user's command)

    async def _run(self, action: str) -> None:
        # Shielded, so that a call ends before the next one starts.
        self._call = asyncio.ensure_future(self._finish(action))
        await asyncio.shield(self._call)
        self._is_down = action == "stop"

    async def _finish(self, action: str) -> None:
        with self._log.open("wb") as output:
            # In a new session, so that Ctrl-C in this terminal does not end the servers that it starts.
            process = await asyncio.create_subprocess_exec(
                *self._command,
                action,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(COMMAND_SECONDS):
                code = await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise Unavailable(
                f"`{shlex.join(self._command)} {action}` did not end within {COMMAND_SECONDS:.0f} s"
            ) from None
        if code:
            words = " | ".join(self._log.read_text(errors="replace").splitlines()[-3:])
            raise Unavailable(f"`{shlex.join(self._command)} {action}` failed with exit code {code}: {words}")
