"""The memory budget of pending requests."""

import pytest

from eventmill.errors import Overloaded
from eventmill.ingest.budget import Budget


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
