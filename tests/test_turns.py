"""Expensive work: one piece per pass of the event loop, and clients one after another."""

import asyncio
import json
from typing import Any

import pytest

from eventmill.errors import Overloaded
from eventmill.turns import MAX_WAITING, Turns
from support.mill import Mill, running_mill

pytestmark = pytest.mark.anyio


async def test_clients_take_turns_however_much_work_each_has() -> None:
    turns, order = Turns(), []
    for client in ("a", "a", "a", "b", "a", "b", "c"):
        turns.add(client, lambda client=client: order.append(client))  # type: ignore[misc]
    for _ in range(7):
        await asyncio.sleep(0)
    assert order == ["a", "b", "c", "a", "b", "a", "a"]


@pytest.mark.parametrize("rests", [False, True])
async def test_other_work_runs_between_two_pieces(rests: bool) -> None:
    turns, order = Turns(rests=rests), []
    for piece in range(10):
        turns.add("a", lambda piece=piece: order.append(piece))  # type: ignore[misc]
    while len(order) < 10:
        before = len(order)
        await asyncio.sleep(0)
        assert len(order) <= before + 1


async def test_the_requests_of_a_client_run_one_after_another_and_clients_side_by_side() -> None:
    turns = Turns()
    running: set[str] = set()
    seen: list[set[str]] = []

    async def work(client: str) -> None:
        async with turns.line(client) as line:
            assert client not in running
            running.add(client)
            for _ in range(3):
                await line.turn()
                seen.append(set(running))
            running.remove(client)

    await asyncio.gather(*(work(client) for client in "aaabbb"))
    assert {"a", "b"} in seen


async def test_a_client_with_too_many_waiting_requests_is_refused_and_others_are_not() -> None:
    turns = Turns()
    async with turns.line("a"):
        waiting = [asyncio.create_task(turns.line("a").__aenter__()) for _ in range(MAX_WAITING - 1)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match=f"{MAX_WAITING} requests of this client"):
            await turns.line("a").__aenter__()
        async with turns.line("b"):
            pass
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    async with turns.line("a") as line:
        assert line.length == 1


async def test_a_request_that_is_cancelled_while_it_waits_gives_its_place_up() -> None:
    turns = Turns()

    async def work() -> None:
        async with turns.line("a") as line:
            await line.turn()

    tasks = [asyncio.create_task(work()) for _ in range(3)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [task.cancelled() for task in tasks] == [True, True, False]


async def post_bulk(mill: Mill, user_id: str, *, leaves: bool) -> int:
    """Post one bulk; its client may leave as soon as it has sent the body. Return the status, 0 without a response."""
    event = {"event_name": "a", "channel": "web", "user_id": user_id, "timestamp": 1766717657}
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/events/bulk", "query_string": b""}
    scope |= {"client": ("127.0.0.1", 1), "headers": [(b"host", b"localhost")]}
    left = asyncio.Event()
    messages = [{"type": "http.request", "body": json.dumps([event]).encode(), "more_body": False}]
    statuses = [0]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        if not leaves:
            await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        statuses[0] = message.get("status", statuses[0])

    await mill.app(scope, receive, send)
    return statuses[0]


async def test_the_body_of_a_client_that_left_while_it_waited_is_dropped() -> None:
    async with running_mill() as mill:
        posts = [post_bulk(mill, str(number), leaves=number == 1) for number in range(3)]
        assert await asyncio.gather(*posts) == [202, 0, 202]
