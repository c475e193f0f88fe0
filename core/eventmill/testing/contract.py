"""What both suites share: deviations must be loud, tests run on asyncio."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import pytest


class Contract:
    """The base of the suites. A subclass that overrides a test must give a reason, by xfail or skip."""

    pytestmark: ClassVar[list[pytest.MarkDecorator]] = [pytest.mark.anyio]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name, member in vars(cls).items():
            inherited = any(hasattr(base, name) for base in cls.__bases__)
            if name.startswith("test_") and inherited and not _has_reason(member):
                raise TypeError(
                    f"{cls.__name__}.{name} overrides a test of the contract: "
                    "mark it with pytest.mark.xfail(reason=…) or pytest.mark.skip(reason=…)"
                )

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    def settings(self) -> Any:
        """Override it: settings with a fresh name per test, so that tests share nothing."""
        pytest.fail("a subclass must define the fixture `settings`")

    @pytest.fixture
    def unreachable_settings(self) -> Any:
        """Override it for a backend that reaches over the network: settings of a server that is not there."""
        return None


def _has_reason(test: object) -> bool:
    marks = getattr(test, "pytestmark", [])
    return any(mark.name in ("xfail", "skip") and mark.kwargs.get("reason") for mark in marks)


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float = 5.0) -> None:
    """Wait until the condition holds; fail when it does not in time."""
    until = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < until, f"did not come true within {seconds} s"
        await asyncio.sleep(0.02)
