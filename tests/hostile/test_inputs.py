"""A hostile input gets a clear answer, and costs no event of anybody else."""

import json
import logging

import pytest

from hostile.inputs import bodies, events
from support.mill import running_mill

pytestmark = pytest.mark.anyio

HONEST = json.dumps({"event_name": "a", "channel": "web", "user_id": "honest", "timestamp": 1766717657}).encode()
EVENTS, BODIES = list(events()), list(bodies())


def test_there_are_hundreds_of_them() -> None:
    assert len(EVENTS) + len(BODIES) >= 300


async def test_a_hostile_event_is_accepted_or_rejected_with_a_reason(caplog: pytest.LogCaptureFixture) -> None:
    async with running_mill() as mill:
        for body in EVENTS:
            answer = await mill.client.post("/events", content=body)
            content = answer.json()
            assert answer.status_code in (202, 400, 413), (body[:200], answer.text)
            assert content.keys() >= ({"event_id"} if answer.status_code == 202 else {"error", "message"})
            assert content.get("message", "").isprintable(), (body[:200], content)
    assert not [record for record in caplog.records if record.levelno > logging.WARNING]


async def test_a_hostile_event_in_a_bulk_costs_no_other_event() -> None:
    async with running_mill() as mill:
        for body in EVENTS:
            if b'"\\"' in body:
                continue  # a text without an end contains what follows
            for whole, kind in (
                (b"[%b,%b,%b]" % (HONEST, body, HONEST), "json"),
                (b"\n".join((HONEST, body)), "x-ndjson"),
            ):
                answer = await mill.client.post(
                    "/events/bulk", content=whole, headers={"Content-Type": f"application/{kind}"}
                )
                assert answer.status_code == 202, (body[:200], answer.text)
                assert answer.json()["accepted"] >= 1 + (kind == "json")


async def test_a_hostile_body_is_refused_with_a_reason() -> None:
    async with running_mill() as mill:
        for body, headers in BODIES:
            for path in ("/events", "/events/bulk"):
                answer = await mill.client.post(path, content=body, headers=headers)
                assert answer.status_code in (202, 400, 413, 415), (path, body[:100], headers, answer.text)
                if answer.status_code != 202:
                    assert answer.json()["message"].isprintable(), (body[:100], answer.text)
            assert (await mill.client.post("/events", content=HONEST)).status_code == 202
        assert mill.budget.used_bytes == 0
