"""The plan of a run: its traffic and its faults, all drawn from the seed."""

import random
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal[
    "store unavailable",  # every insert and check fails
    "store rejects all",  # a wrong schema: every event is rejected, also canaries
    "store hangs",  # inserts take very long, and then fail
    "store partly unavailable",  # some rows always fail
    "queue unavailable",  # every call to the main queue fails
    "dead queue unavailable",  # every call to the dead-letter queue fails
    "dead queue partly fails",  # it confirms only a part of a publish
    "disk full",  # publishing fails; leases and acks work
    "store loses replies",  # a call takes effect, but fails
    "queue loses replies",
    "queue doubles",  # a published message exists twice
    "short receives",  # a receive returns fewer messages than exist, or none
    "stolen leases",  # a lease ends early
    "slow calls",
    "clock jumps",  # of the wall clock
    "children die",  # trial subprocesses crash at random
    "crashes",  # of a process, between any two steps
    "stops",  # of a process, as by SIGTERM
]
WINDOWS: tuple[Kind, ...] = (
    "store unavailable",
    "store rejects all",
    "store hangs",
    "store partly unavailable",
    "queue unavailable",
    "dead queue unavailable",
    "disk full",
)
OTHERS: tuple[Kind, ...] = (
    "store loses replies",
    "queue loses replies",
    "queue doubles",
    "short receives",
    "stolen leases",
    "slow calls",
    "clock jumps",
    "children die",
    "dead queue partly fails",
    "crashes",
    "stops",
)
# With faults of these kinds alone, an event that nothing is wrong with must be stored within a bound.
HARMLESS: frozenset[Kind] = frozenset(
    {
        "store partly unavailable",
        "dead queue unavailable",
        "dead queue partly fails",
        "queue doubles",
        "short receives",
        "clock jumps",
    }
)
# Only faults of these kinds may let a lease end, or a dead letter be published twice.
DISTURBING: frozenset[Kind] = frozenset(
    {"queue loses replies", "queue doubles", "stolen leases", "slow calls", "queue unavailable", "crashes", "stops"}
)
Rejection = Literal["all named", "one named", "none named"]
Bad = Literal["", "rejected", "poison"]


@dataclass(frozen=True, slots=True)
class Window:
    """A span of time in which one kind of fault is active."""

    kind: Kind
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Post:
    """One post: `count` events, all valid, all rejected by the store, or one poison event among valid ones."""

    at: float
    count: int
    bad: Bad


@dataclass(slots=True)
class Plan:
    """One run: its traffic, and its faults.

    Attributes:
        seconds: how long there are traffic and faults; then everything works, and the run comes to rest.
        share: of calls that fail in the ways that have no window; of rows that fail while the store is partly away.
        garbage: when a message that is no frame appears in the queue.
    """

    seed: int
    seconds: float
    kinds: frozenset[Kind]
    windows: list[Window] = field(default_factory=list)
    posts: list[Post] = field(default_factory=list)
    garbage: list[float] = field(default_factory=list)
    consumers: int = 1
    share: float = 0.1
    rejection: Rejection = "all named"
    half_stored: bool = False
    batch_events: int = 20
    trial_starts: float = 1.0  # the probability that a trial subprocess can start

    @property
    def has_poison(self) -> bool:
        return any(post.bad == "poison" for post in self.posts)

    @property
    def is_orderly(self) -> bool:
        """Whether no lease may end before its message is settled, and each dead letter must exist once."""
        return not self.kinds & DISTURBING and not self.has_poison

    @property
    def is_harmless(self) -> bool:
        """Whether healthy events must be stored within a bound."""
        return self.kinds <= HARMLESS and not self.has_poison

    def is_on(self, kind: Kind, at: float) -> bool:
        return any(window.kind == kind and window.start <= at < window.end for window in self.windows)


def draw(seed: int) -> Plan:
    """Draw a plan with a few kinds of faults. All kinds at once would hide each other."""
    rng = random.Random(seed)
    seconds = rng.choice([20.0, 60.0, 200.0])
    some = set(rng.sample(WINDOWS, rng.choice([0, 1, 1, 2]))) | set(rng.sample(OTHERS, rng.choice([0, 1, 1, 2, 3])))
    plan = Plan(seed, seconds, frozenset(some), consumers=rng.choice([1, 1, 2]), share=rng.choice([0.05, 0.2, 0.5]))
    for kind in WINDOWS:
        if kind in plan.kinds:
            start = rng.uniform(0, seconds * 0.6)
            plan.windows.append(Window(kind, start, start + rng.uniform(1, seconds * 0.6)))
    plan.rejection = rng.choice(["all named", "one named", "none named"])
    plan.half_stored = rng.random() < 0.3
    plan.trial_starts = rng.choice([1.0, 1.0, 0.3])
    plan.batch_events = rng.choice([20, 20, 2000])
    plan.posts = _draw_posts(rng, seconds)
    plan.garbage = [rng.uniform(0, seconds) for _ in range(rng.choice([0, 0, 1, 3]))]
    return plan


def _draw_posts(rng: random.Random, seconds: float) -> list[Post]:
    count = 150 if rng.random() < 0.03 else rng.randrange(5, 30)
    posts = [Post(rng.uniform(0, seconds), rng.choice([1, 1, 2, 5]), "") for _ in range(count)]
    rejected = rng.choice([0, 0, 1, 2, 5])
    posts += [Post(rng.uniform(0, seconds), rng.choice([1, 2, 5]), "rejected") for _ in range(rejected)]
    if rng.random() < 0.05:
        posts.append(Post(rng.uniform(0, seconds), 160, "rejected"))
    if rng.random() < 0.15:
        posts.append(Post(rng.uniform(0, seconds), rng.choice([1, 5]), "poison"))
    return sorted(posts, key=lambda post: post.at)
