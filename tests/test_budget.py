"""The memory budget of pending requests."""

import pytest

from eventmill.errors import Overloaded
from eventmill.ingest.budget import Budget
from support.mill import running_mill


def test_a_quarter_is_reserved_for_small_requests_and_an_empty_part_needs_nothing() -> None:
    budget = Budget(400_000)
    with budget.hold() as large, budget.hold() as small:
        large.grow(300_000)
        small.grow(60_000)
        large.grow(0)
        with pytest.raises(Overloaded):
            large.grow(1)
        small.grow(5_000)
        assert budget.used_bytes == 365_000
    assert budget.used_bytes == 0


@pytest.mark.anyio
async def test_readiness_warns_while_bodies_use_most_of_the_memory() -> None:
    async with running_mill() as mill:
        assert (await mill.client.get("/health/ready")).json()["warnings"] == []
        with mill.budget.hold() as hold:
            hold.grow(mill.budget.large_limit_bytes - 1)
            [warning] = (await mill.client.get("/health/ready")).json()["warnings"]
        assert "EVENTMILL_MEMORY_BYTES" in warning
        assert (await mill.client.get("/health/ready")).json()["warnings"] == []
