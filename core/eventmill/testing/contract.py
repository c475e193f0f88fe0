"""The common base of both suites: one time limit per test, errors that name the promise, and loud deviations."""

import asyncio
import functools
import re
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ClassVar, TypeVar

import pytest
from prometheus_client import Metric

T = TypeVar("T")

LIMIT_SECONDS = 30.0
_OWN_MODULES = "eventmill.testing."
_HOW_TO_DEVIATE = "mark it with pytest.mark.xfail(reason=…) or pytest.mark.skip(reason=…)"


class Server(ABC):
    """Control of the server behind a backend, for tests of outages. It has the address that the settings name."""

    @abstractmethod
    async def stop(self) -> None:
        """Kill the server without warning, as `kill -9` does."""

    @abstractmethod
    async def start(self) -> None:
        """Start it again with its data, at the same address, and return when it accepts connections."""

    @abstractmethod
    async def freeze(self) -> None:
        """Let it accept connections, but answer nothing, as SIGSTOP does."""

    @abstractmethod
    async def resume(self) -> None:
        """End a freeze. Harmless if it is not frozen."""


class Contract:
    """The base of the suites. A subclass that overrides a test must give a reason, with xfail or skip.

    A test, and opening and closing the backend around it, end within 30 s each, unless the backend blocks the loop.
    """

    pytestmark: ClassVar[list[pytest.MarkDecorator]] = [pytest.mark.anyio]
    backend: ClassVar[Any]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.__module__.startswith(_OWN_MODULES):
            for name, member in list(vars(cls).items()):
                if hasattr(member, "hypothesis"):
                    member.hypothesis.inner_test = _guarded(member.hypothesis.inner_test)
                elif name.startswith("test_"):
                    setattr(cls, name, _guarded(member))
            return
        for name in dir(cls):
            if name.startswith("test_") and _is_overridden(cls, name) and not _has_reason(getattr(cls, name)):
                raise TypeError(f"{cls.__name__}.{name} overrides a test of the contract: {_HOW_TO_DEVIATE}")

    @asynccontextmanager
    async def another(self, handle: T, settings: Any) -> AsyncIterator[T]:
        """Yield a second handle, as another process has; the same one if the reach is one process."""
        if settings.reach == "process":
            yield handle
        else:
            async with self.backend.open(settings) as second:
                yield second

    @pytest.fixture(autouse=True)
    def check_set_up(self, request: pytest.FixtureRequest) -> None:
        """Explain the usual mistakes in setting up a suite."""
        config = request.config
        is_loaded = config.pluginmanager.hasplugin("asyncio")
        if is_loaded and "auto" in (str(config.getoption("asyncio_mode")), config.getini("asyncio_mode")):
            pytest.fail("pytest-asyncio is in auto mode and takes over the suite's tests: set asyncio_mode = strict")
        if not hasattr(type(self), "backend"):
            pytest.fail(f"{type(self).__name__} must name the backend that it tests: `backend = my_plugin.backend`")

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    def settings(self) -> Any:
        """Override this fixture: return settings with a new name per test, so that tests share nothing."""
        pytest.fail(f"{type(self).__name__} must define the fixture `settings`")

    @pytest.fixture
    def unreachable_settings(self) -> Any:
        """Override this fixture if the backend uses a network: return settings of a server that does not exist."""
        return None

    @pytest.fixture
    def server(self) -> Server | None:
        """Override this fixture to test outages: return control of the server that `settings` names."""
        return None


def require(server: Server | None, settings: Any) -> Server:
    """Return the server. Skip the test for a backend without one, or if its author has not defined the fixture."""
    if server is None:
        is_remote = settings.reach == "network"
        pytest.skip("define the fixture `server` to test outages" if is_remote else "the backend has no server")
    return server


def _guarded(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Give a test its time limit, and add the promise and the likely cause to its errors."""
    promise = " ".join((test.__doc__ or test.__name__.removeprefix("test_").replace("_", " ")).split())

    @functools.wraps(test)
    async def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            async with asyncio.timeout(LIMIT_SECONDS) as limit:
                await test(*args, **kwargs)
        except pytest.skip.Exception:
            raise
        except BaseException as error:
            if limit.expired():
                raise AssertionError(f"not finished within {LIMIT_SECONDS:.0f} s. Promise: {promise}") from error
            error.add_note(f"Promise: {promise}")
            raise

    return guarded


def _is_overridden(cls: type, name: str) -> bool:
    """Return whether a test of the suite is replaced by one from another module."""
    owners = [base.__module__.startswith(_OWN_MODULES) for base in cls.__mro__ if name in vars(base)]
    return True in owners and not owners[0]


def _has_reason(test: object) -> bool:
    marks = getattr(test, "pytestmark", [])
    return any(mark.name in ("xfail", "skip") and mark.kwargs.get("reason") for mark in marks)


@asynccontextmanager
async def limited(opening: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """Open and close a backend, each within the time limit of a test."""
    async with asyncio.timeout(LIMIT_SECONDS):
        opened = await opening.__aenter__()
    try:
        yield opened
    finally:
        async with asyncio.timeout(LIMIT_SECONDS):
            await opening.__aexit__(None, None, None)


MAX_SERIES = 100  # of one backend
_NAME = re.compile(r"[a-z][a-z0-9_]*[a-z0-9]")
_LABEL_VALUE = re.compile(r"[\w .-]{0,64}")


def check_metrics(before: Iterable[Metric], after: Iterable[Metric], prefix: str) -> None:
    """Assert that metrics have proper names and few labels, and that no counter has fallen in between."""
    values = {(sample.name, *sorted(sample.labels.items())): sample.value for m in before for sample in m.samples}
    series = 0
    for metric in after:
        assert metric.name.startswith(prefix), f"the metric {metric.name!r} must start with {prefix!r}"
        assert _NAME.fullmatch(metric.name), f"{metric.name!r} may have small letters, digits and underscores only"
        assert metric.documentation, f"the metric {metric.name!r} has no documentation"
        series += len(metric.samples)
        for sample in metric.samples:
            texts = [*sample.labels.keys(), *sample.labels.values()]
            wrong = [text for text in texts if not _LABEL_VALUE.fullmatch(text)]
            assert not wrong, f"{metric.name} has the label {wrong[0]!r}: labels are short names, not addresses"
            former = values.get((sample.name, *sorted(sample.labels.items())), sample.value)
            assert metric.type != "counter" or sample.value >= former, f"the counter {metric.name} has fallen"
    assert series <= MAX_SERIES, f"{series} series: labels must have few values"


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float = 5.0) -> None:
    """Wait until the condition holds; fail if it does not in time."""
    until = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < until, f"did not become true within {seconds} s"
        await asyncio.sleep(0.02)
