"""The promises that must hold after each run."""

import asyncio

from eventmill import Event, frames
from eventmill.errors import UndecodableMessage
from eventmill.testing.simulation.clients import Ledger
from eventmill.testing.simulation.simulated_queue import Broker
from eventmill.testing.simulation.simulated_store import Table
from eventmill.testing.simulation.world import World

# Healthy events wait at most so long for sick ones: a batch, three tries of it with backoff, and the halving of the
# messages that failed.
HEALTHY_SECONDS = 30.0


def judge(world: World, ledger: Ledger, broker: Broker, dead: Broker, table: Table) -> None:
    """Record every broken promise in the world."""
    dead_ids = _judge_letters(world, ledger, dead)
    _judge_tasks(world)
    stored = table.stored_at
    waiting = {event.event_id for message in broker.messages.values() for event in _events(message.body)}
    for event_id in ledger.accepted_at:
        if event_id not in stored and event_id not in dead_ids and event_id not in waiting:
            world.violate(f"lost: event {event_id} was accepted, and is neither stored nor dead-lettered")
    if unexpected := stored.keys() - ledger.posted.keys() - {event_id for event_id in stored if "canary" in event_id}:
        world.violate(f"stored, but never posted: {sorted(unexpected)[:5]}")
    if world.plan.is_harmless:
        _judge_waiting(world, ledger, table)


def _judge_letters(world: World, ledger: Ledger, dead: Broker) -> set[str]:
    """Check the reason of each dead letter; return the ids of the events in them."""
    ids: set[str] = set()
    bodies: set[bytes] = set()
    for message in dead.messages.values():
        letter = frames.decode_dead(message.body)
        events = _events(letter.body)
        if letter.body in bodies and world.plan.is_orderly:
            world.violate(f"two dead letters for the same event: {letter.reason}")
        bodies.add(letter.body)
        ids |= {event.event_id for event in events}
        is_true = {
            "rejected": bool(events) and all(event.user_id == "rejected" for event in events),
            "poison": bool(events) and all(event.user_id == "poison" for event in events),
            "undecodable": letter.body in ledger.garbage,
        }.get(letter.reason, False)
        if not is_true:
            world.violate(f"a dead letter with an untrue reason: {letter.reason}, {letter.code}: {letter.message}")
    return ids


def _judge_tasks(world: World) -> None:
    """Check that no task is left after all processes have ended, except those that a crash has frozen."""
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    if left and not world.plan.has_poison and not world.plan.kinds & {"crashes", "stops"}:
        world.violate(f"{len(left)} tasks are left, the first: {left[0].get_name()}")


def _judge_waiting(world: World, ledger: Ledger, table: Table) -> None:
    for event_id, accepted_at in ledger.accepted_at.items():
        event = ledger.posted[event_id]
        if event.user_id == "good" and not table.is_on_sick_shard(event):
            seconds = table.stored_at.get(event_id, float("inf")) - accepted_at
            if seconds > HEALTHY_SECONDS:
                world.violate(f"healthy event {event_id} was stored {seconds:.1f} s after it was accepted")


def _events(body: bytes) -> list[Event]:
    try:
        return [event for event, _ in frames.decode_frame(body)]
    except UndecodableMessage:
        return []
