"""Receipts: whether an event is stored, and waiting for it."""

import asyncio
import time
from collections.abc import Sequence

import pytest

from eventmill import Event, Identity, StoreUnavailable
from support.mill import running_mill
from support.proxies import StoreProxy

pytestmark = pytest.mark.anyio
EVENT = {
    "event_name": "order",
    "channel": "web",
    "user_id": "ada",
    "timestamp": 1_700_000_000.25,
    "campaign_id": "spring",
    "tags": ["a", "b"],
    "metadata": {"price": 1.50},
}


async def test_a_posted_event_can_be_looked_up_by_its_id() -> None:
    async with running_mill() as mill:
        reply = await mill.client.post("/events?wait=stored", json=EVENT)
        assert (reply.status_code, reply.json()["status"]) == (200, "stored")
        question = {"event_name": "order", "timestamp": "1700000000.25", "event_id": reply.json()["event_id"]}
        [found] = (await mill.client.get("/events", params=question)).json()
        assert found["received_at"] == pytest.approx(time.time(), abs=60)
        assert found == EVENT | {"event_id": reply.json()["event_id"], "received_at": found["received_at"]}
        for other in ({"event_id": "other"}, {"timestamp": "2023-11-14T22:13:20Z"}, {"event_name": "other"}):
            reply = await mill.client.get("/events", params=question | other)
            assert (reply.status_code, reply.json()) == (200, [])


@pytest.mark.parametrize("missing", ["event_name", "event_id"])
async def test_a_query_without_all_parts_of_the_identity_is_rejected(missing: str) -> None:
    question = {"event_name": "order", "timestamp": "1700000000", "event_id": "x"}
    del question[missing]
    async with running_mill() as mill:
        reply = await mill.client.get("/events", params=question)
        assert (reply.status_code, reply.json()["field"]) == (400, missing)


@pytest.mark.parametrize("query", ["wait=ever", "wait", "x=y", "wait=stored&x=y"])
async def test_another_query_is_rejected(query: str) -> None:
    async with running_mill() as mill:
        reply = await mill.client.post(f"/events?{query}", json=EVENT)
        assert (reply.status_code, reply.json()["field"]) == (400, "wait")


class Watched(StoreProxy):
    """Counts the questions for receipts; may be away, or not know the event yet."""

    polls: Sequence[int] = ()
    is_away = False

    async def find(self, identities: Sequence[Identity]) -> list[Event]:
        self.polls = [*self.polls, len(identities)]
        if self.is_away:
            raise StoreUnavailable("away")
        return await self.inner.find(identities)


async def test_a_crowd_of_waiters_shares_its_queries() -> None:
    async with running_mill(wrap_store=Watched) as mill:
        posts = [mill.client.post("/events?wait=stored", json=EVENT | {"user_id": f"{n}"}) for n in range(100)]
        replies = await asyncio.gather(*posts)
        assert {reply.status_code for reply in replies} == {200}
        assert isinstance(mill.store, Watched)
        assert len(mill.store.polls) < 30
        assert max(mill.store.polls) > 10


async def test_a_store_that_is_unavailable_ends_in_202(monkeypatch: pytest.MonkeyPatch) -> None:
    from eventmill.api import receipts

    monkeypatch.setattr(receipts.Receipts.wait, "__defaults__", (0.5,))
    async with running_mill(wrap_store=Watched) as mill:
        assert isinstance(mill.store, Watched)
        first = await mill.client.post("/events?wait=stored", json=EVENT | {"user_id": "first"})
        assert first.status_code == 200  # the consumer has started
        mill.store.is_away = True
        reply = await mill.client.post("/events?wait=stored", json=EVENT)
        assert (reply.status_code, reply.json()["status"]) == (202, "accepted")
        mill.store.is_away = False
        assert (await mill.client.post("/events?wait=stored", json=EVENT)).status_code == 200
