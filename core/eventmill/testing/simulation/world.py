"""The world that all simulated processes share: the plan, the clock, the story, and which processes are alive."""

import asyncio
import random
from collections.abc import Callable
from typing import TypeVar

from eventmill.testing.simulation.clock import VirtualLoop
from eventmill.testing.simulation.plan import Kind, Plan

T = TypeVar("T")

HANG_SECONDS = 25.0
_LATENCY_SECONDS = (0.0005, 0.02)
_SLOW_SECONDS = (0.5, 4.0)


class Process:
    """A process that can crash between any two steps. Its requests under way may take effect or not."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.main: asyncio.Task[None] | None = None

    def die(self) -> None:
        self.alive = False
        if self.main is not None:
            self.main.cancel()

    async def step(self) -> None:
        """Return if the process is alive. In a crashed process, wait forever."""
        if not self.alive:
            await asyncio.get_running_loop().create_future()


class World:
    """The plan while it is executed."""

    def __init__(self, plan: Plan, loop: VirtualLoop) -> None:
        self.plan = plan
        self.rng = random.Random(f"world {plan.seed}")
        self.story: list[str] = []
        self.violations: list[str] = []
        self._loop = loop

    @property
    def now(self) -> float:
        return self._loop.time()

    @property
    def is_calm(self) -> bool:
        """Whether the time of faults has ended."""
        return self.now >= self.plan.seconds

    def tell(self, text: str) -> None:
        self.story.append(f"{self.now:9.3f}  {text}")

    def violate(self, text: str) -> None:
        self.violations.append(text)
        self.tell(f"VIOLATION  {text}")

    def is_on(self, kind: Kind) -> bool:
        return self.plan.is_on(kind, self.now)

    def chance(self, kind: Kind) -> bool:
        """Return whether a fault of single calls hits this one."""
        return kind in self.plan.kinds and not self.is_calm and self.rng.random() < self.plan.share

    def jump_clock(self) -> None:
        seconds = self.rng.choice([-7200, -60, -1, 1, 60, 7200])
        self._loop.wall_offset_seconds += seconds
        self.tell(f"the wall clock jumps by {seconds} s")

    async def call(self, process: Process, effect: Callable[[], T], loses_reply: Kind, error: Exception) -> T:
        """Apply an effect after a moment, and return after another. Raise `error` if the reply is lost."""
        await process.step()
        try:
            await self.pause()
        except asyncio.CancelledError:
            if self.rng.random() < 0.5:
                effect()  # the request was sent already
            raise
        result = effect()
        if self.chance(loses_reply):
            self.tell(f"{process.name}: a reply is lost")
            raise error
        await self.pause()
        await process.step()
        return result

    async def pause(self) -> None:
        """Wait for the time of half a call."""
        bounds = _SLOW_SECONDS if self.chance("slow calls") else _LATENCY_SECONDS
        await asyncio.sleep(self.rng.uniform(*bounds))
