"""Outages of the servers: a command of the user stops and starts them."""

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
    """Calls `COMMAND stop` and `COMMAND start` in turn. The last call is `start`, whatever happens."""

    def __init__(self, command: str, folder: Path) -> None:
        try:
            self._command = shlex.split(command)
        except ValueError as error:
            raise ConfigurationError(f"--outage-command: {error}") from None
        if not self._command or shutil.which(self._command[0]) is None:
            raise ConfigurationError(f"--outage-command: there is no program {command!r}")
        self._log = folder / "outages.log"
        self._call: asyncio.Future[None] | None = None
        self._is_down = False

    async def __aenter__(self) -> "Outages":
        try:
            await self._run("start")
        except Unavailable as error:
            raise ConfigurationError(f"--outage-command: {error}; it must also work while the servers run") from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._call is not None:
            await asyncio.gather(self._call, return_exceptions=True)
        if self._is_down:
            await self._run("start")

    async def cause_one(self, longest_seconds: float) -> None:
        """Stop the servers, and start them again after a while. Raises Unavailable when the command fails."""
        self._is_down = True
        await self._run("stop")
        await asyncio.sleep(random.uniform(OUTAGE_SECONDS[0], longest_seconds))
        await self._run("start")
        self._is_down = False

    def start(self) -> None:
        """Start the servers if they are down, without a loop: the last resort of a process that is told to hurry."""
        if self._is_down:
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                subprocess.run([*self._command, "start"], timeout=COMMAND_SECONDS, check=False)  # noqa: S603 (the user's own)

    async def _run(self, action: str) -> None:
        # Shielded: a call under way must end before the next one.
        self._call = asyncio.ensure_future(self._finish(action))
        await asyncio.shield(self._call)
        self._is_down = action == "stop"

    async def _finish(self, action: str) -> None:
        with self._log.open("wb") as output:
            # A session of its own: what it starts must not be ended by a Ctrl-C in this terminal.
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
            raise Unavailable(f"`{shlex.join(self._command)} {action}` takes over {COMMAND_SECONDS:.0f} s") from None
        if code:
            words = " | ".join(self._log.read_text(errors="replace").splitlines()[-3:])
            raise Unavailable(f"`{shlex.join(self._command)} {action}` failed with exit code {code}: {words}")
