"""One run: the real publisher, consumer and quarantine over a simulated queue and store."""

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from eventmill import Queue, Store, frames
from eventmill.consumer.consumer import Consumer
from eventmill.consumer.pace import MAX_RECEIVERS
from eventmill.consumer.trials import Verdict
from eventmill.ingest.publisher import Publisher
from eventmill.shutdown import Shutdown
from eventmill.testing.simulation import clock
from eventmill.testing.simulation.clients import Clients
from eventmill.testing.simulation.plan import Plan, draw
from eventmill.testing.simulation.simulated_queue import Broker, SimulatedQueue
from eventmill.testing.simulation.simulated_store import SimulatedStore, Table
from eventmill.testing.simulation.verdict import judge
from eventmill.testing.simulation.world import Process, World

BUFFER_EVENTS = 40
RECEIVE_MESSAGES = 4
# At most a fifth of all subprocesses die at random: if half of them did, no few trials could prove anything.
DEATH_SHARE = 0.4
DRAIN_SECONDS = 16.0
LEAVE_SECONDS = 20.0
REST_SECONDS = 3600.0

Start = Callable[[Process, Shutdown], Coroutine[Any, Any, None]]
Trouble = Coroutine[Any, Any, None]
WrapQueue = Callable[[Queue], Queue]
WrapStore = Callable[[Store], Store]
T = TypeVar("T")


def _same(backend: T) -> T:
    return backend


@dataclass(frozen=True, slots=True)
class Run:
    """The result of a seed: `violations` is empty if every promise was kept."""

    seed: int
    story: Sequence[str]
    violations: Sequence[str]


def simulate(seed: int, wrap_queue: WrapQueue = _same, wrap_store: WrapStore = _same) -> Run:
    """Run a seed. The same seed gives the same story in every process.

    Args:
        wrap_queue, wrap_store: put a queue or a store of one's own around the simulated one of each process, or in its
            place. It must do without threads and sockets, and take the time from `time` and `asyncio` alone.
    """
    return simulate_plan(draw(seed), wrap_queue, wrap_store)


def simulate_plan(plan: Plan, wrap_queue: WrapQueue = _same, wrap_store: WrapStore = _same) -> Run:
    """Run a plan, such as one written by hand. The arguments are those of `simulate`."""
    loop = clock.VirtualLoop(random.Random(f"scheduler {plan.seed}"))
    world = World(plan, loop)
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        clock.run(Simulation(world, wrap_queue, wrap_store).run(), loop, plan.seed)
    except clock.StuckError as error:
        world.violate(str(error))
    else:
        if loop.errors and not plan.has_poison and "crashes" not in plan.kinds:
            world.violate(f"an unhandled error: {loop.errors[0]}")
    finally:
        logging.disable(level)
    return Run(plan.seed, world.story, world.violations)


class Simulation:
    """The processes of a deployment: an API and consumers, with a supervisor that restarts them."""

    def __init__(self, world: World, wrap_queue: WrapQueue, wrap_store: WrapStore) -> None:
        self._world = world
        self._wrap_queue = wrap_queue
        self._wrap_store = wrap_store
        self._plan = world.plan
        self._dead = Broker(world, "dead")
        self._broker = Broker(world, "main")
        self._table = Table(world)
        self._clients = Clients(world)
        self._processes: dict[str, tuple[Process, Shutdown]] = {}
        self._finished = False

    async def run(self) -> None:
        """Execute the plan, wait until the deployment comes to rest, and check the promises."""
        world, plan = self._world, self._plan
        world.tell(f"seed {plan.seed}: {', '.join(sorted(plan.kinds)) or 'no faults'}; rejections: {plan.rejection}")
        for window in plan.windows:
            world.tell(f"{window.kind} from {window.start:.1f} to {window.end:.1f} s")
        names = [f"consumer-{number}" for number in range(1, plan.consumers + 1)]
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep("api", self._serve))
            for name in names:
                group.create_task(self._keep(name, self._consume))
            posts = [group.create_task(self._clients.post(number, post)) for number, post in enumerate(plan.posts)]
            troubles = [group.create_task(trouble) for trouble in self._troubles()]
            await asyncio.wait([*posts, *troubles])
            await self._rest()
            self._finished = True
            for name in list(self._processes):
                self._stop(name)
        judge(world, self._clients.ledger, self._broker, self._dead, self._table)

    # processes

    async def _keep(self, name: str, start: Start) -> None:
        """Keep a process running: restart it whenever it ends."""
        generation = 0
        while not self._finished:
            generation += 1
            process, shutdown = Process(f"{name}.{generation}"), Shutdown()
            self._processes[name] = process, shutdown
            process.main = asyncio.create_task(start(process, shutdown))
            await asyncio.wait([process.main])
            if process.alive and not process.main.cancelled() and (error := process.main.exception()) is not None:
                self._world.violate(f"{process.name} ends with {error!r}")
            elif process.alive and not shutdown.is_asked:
                self._world.violate(f"{process.name} ends without being told to")
            process.alive = False
            await asyncio.sleep(self._world.rng.uniform(0.1, 3))

    async def _serve(self, process: Process, shutdown: Shutdown) -> None:
        async with Publisher(self._queue(process)) as publisher:
            self._clients.api = process, publisher
            await shutdown.wait()
            self._clients.api = None

    async def _consume(self, process: Process, shutdown: Shutdown) -> None:
        consumer = Consumer(
            self._queue(process),
            self._wrap_store(SimulatedStore(process, self._table)),
            shutdown,
            trial=self._try,
            batch_events=self._plan.batch_events,
            receive_seconds=5,
            receive_messages=RECEIVE_MESSAGES,
            buffer_events=BUFFER_EVENTS,
        )
        await consumer.run()

    def _queue(self, process: Process) -> Queue:
        return self._wrap_queue(SimulatedQueue(process, self._broker, SimulatedQueue(process, self._dead)))

    async def _try(self, bodies: Sequence[bytes]) -> Verdict:
        """Return the verdict of a trial subprocess on these messages."""
        await asyncio.sleep(self._world.rng.uniform(0.2, 1))
        if self._world.rng.random() > self._plan.trial_starts and not self._world.is_calm:
            return Verdict.UNKNOWN
        if self._world.chance("children die") and self._world.rng.random() < DEATH_SHARE:
            return Verdict.DIED
        events = [event for body in bodies for event, _ in frames.decode_frame(body)]
        return Verdict.DIED if any(event.user_id == "poison" for event in events) else Verdict.SURVIVED

    def _stop(self, name: str) -> None:
        process, shutdown = self._processes[name]
        if process.alive and not shutdown.is_asked:
            shutdown.begin(DRAIN_SECONDS)
            loop = asyncio.get_running_loop()
            loop.call_later(LEAVE_SECONDS, self._check_gone, process)

    def _check_gone(self, process: Process) -> None:
        if process.alive:
            self._world.violate(f"{process.name} was told to stop {LEAVE_SECONDS:g} s ago")

    # faults

    def _troubles(self) -> list[Trouble]:
        rng, plan = self._world.rng, self._plan
        troubles = [self._publish_garbage(at) for at in plan.garbage]
        for _ in range(rng.randrange(1, 6)):
            at = rng.uniform(0, plan.seconds)
            name = rng.choice(["api", *(f"consumer-{number}" for number in range(1, plan.consumers + 1))])
            if "crashes" in plan.kinds:
                troubles.append(self._crash(at, name))
            if "stops" in plan.kinds:
                troubles.append(self._ask_to_stop(rng.uniform(0, plan.seconds), name))
            if "clock jumps" in plan.kinds:
                troubles.append(self._jump(rng.uniform(0, plan.seconds)))
        return [*troubles, asyncio.sleep(plan.seconds), self._watch_memory()]

    async def _publish_garbage(self, at: float) -> None:
        await asyncio.sleep(at)
        body = f"garbage at {at}".encode()
        self._clients.ledger.garbage.add(body)
        self._broker.put([body])
        self._world.tell("a message that is not a frame appears")

    async def _crash(self, at: float, name: str) -> None:
        await asyncio.sleep(at)
        process, _ = self._processes[name]
        if process.alive:
            self._world.tell(f"{process.name} crashes")
            process.die()

    async def _ask_to_stop(self, at: float, name: str) -> None:
        await asyncio.sleep(at)
        self._world.tell(f"{name} is told to stop")
        self._stop(name)

    async def _jump(self, at: float) -> None:
        await asyncio.sleep(at)
        self._world.jump_clock()

    async def _watch_memory(self) -> None:
        """Check every second that no consumer holds more than buffer, batches and receives allow."""
        most = max((post.count for post in self._plan.posts), default=1)
        bound = 2 * BUFFER_EVENTS + 2 * self._plan.batch_events + (MAX_RECEIVERS * RECEIVE_MESSAGES + 2) * most
        while not self._world.is_calm:
            for process, _ in self._processes.values():
                held = self._broker.held_events(process.name)
                if process.alive and held > bound:
                    self._world.violate(f"{process.name} holds {held} events; {bound} are allowed")
            await asyncio.sleep(1)

    async def _rest(self) -> None:
        """Wait until every message is settled."""
        until = self._world.now + REST_SECONDS
        while self._broker.messages:
            if self._world.now > until:
                self._world.violate(f"{len(self._broker.messages)} messages are not settled {REST_SECONDS:g} s later")
                return
            await asyncio.sleep(1)
        self._world.tell("at rest")
