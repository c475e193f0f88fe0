"""Finding, loading, isolating and choosing plugins: fake distributions on the path, no pip."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eventmill import PluginError, PluginSettings, Reach
from eventmill.plugins import load_plugins, open_backend

GOOD = """
from contextlib import asynccontextmanager
from eventmill import HttpApp, PluginSettings, QueueBackend, StoreBackend, hookimpl

class Settings(PluginSettings):
    @property
    def reach(self):
        return "network"

@asynccontextmanager
async def open_it(settings):
    {body}
    yield

@hookimpl
def {hook}({arguments}):
    return {returned}
"""


def plugin(**changes: str) -> str:
    parts = {
        "hook": "eventmill_queue_backends",
        "arguments": "",
        "returned": '[QueueBackend("nats", Settings, open_it, install="pip install eventmill-nats")]',
        "body": "pass",
    }
    return GOOD.format(**(parts | changes))


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Install a distribution of one module and one entry point."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def install(distribution: str, entry_point: str, module: str, code: str) -> None:
        metadata = tmp_path / f"{distribution.replace('-', '_')}-1.5.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.5\n")
        (metadata / "entry_points.txt").write_text(f"[eventmill]\n{entry_point} = {module}\n")
        (tmp_path / f"{module}.py").write_text(code)

    yield install
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_built_in_plugins_come_through_the_same_door() -> None:
    plugins = load_plugins()
    assert plugins.queue("memory").name == "memory"
    assert plugins.store("memory").name == "memory"
    assert plugins.broken == {}


def test_a_strangers_plugin_is_found(install: Callable[..., None]) -> None:
    install("eventmill-nats", "queue_nats", "acme_nats", plugin())
    plugins = load_plugins()
    assert plugins.queue("nats").install == "pip install eventmill-nats"
    [source] = [item.source for item in plugins.queues if item.record.name == "nats"]
    assert str(source) == "queue_nats (eventmill-nats 1.5)"


def test_pages_and_stores_are_found(install: Callable[..., None]) -> None:
    install(
        "a",
        "a",
        "acme_a",
        plugin(hook="eventmill_http_apps", returned='[HttpApp("/x", lambda services: None, "read")]'),
    )
    install(
        "b", "b", "acme_b", plugin(hook="eventmill_store_backends", returned='[StoreBackend("b", Settings, open_it)]')
    )
    plugins = load_plugins()
    assert [item.record.path for item in plugins.http_apps if item.source.entry_point == "a"] == ["/x"]
    assert plugins.store("b").name == "b"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import nowhere_to_be_found", "nowhere_to_be_found"),
        ("raise RuntimeError('out of luck')", "out of luck"),
        ("syntax error", "SyntaxError"),
        (plugin(hook="eventmill_queue_backend"), "there is no hook eventmill_queue_backend"),
        (plugin(arguments="settings"), "settings"),
        (plugin(returned="None"), "must return a list of QueueBackend"),
        (plugin(returned='["nats"]'), "must return a list of QueueBackend"),
        (plugin(returned="1 / 0"), "division"),
        ("import sys; sys.exit(3)", "SystemExit"),
        (plugin(hook="eventmill_http_apps", returned='[HttpApp("x", open_it, "read")]'), "slash"),
    ],
)
def test_a_broken_plugin_affects_no_other_and_is_named_with_its_cause(
    install: Callable[..., None], code: str, words: str
) -> None:
    install("eventmill-broken", "queue_broken", "acme_broken", code)
    install("eventmill-nats", "queue_nats", "acme_nats", plugin())
    plugins = load_plugins()
    assert plugins.queue("nats")
    [(source, why)] = plugins.broken.items()
    assert source.distribution == "eventmill-broken"
    assert words in why
    [warning] = plugins.warnings()
    assert "queue_broken (eventmill-broken 1.5)" in warning
    with pytest.raises(PluginError, match="Failed to load: queue_broken") as refusal:
        plugins.queue("broken")
    assert words in str(refusal.value)


def test_an_unknown_name_is_rejected_with_those_there_are(install: Callable[..., None]) -> None:
    install("eventmill-nats", "queue_nats", "acme_nats", plugin())
    with pytest.raises(PluginError, match="there is no queue 'kafka'. Available: memory, nats"):
        load_plugins().queue("kafka")


def test_two_plugins_of_one_name_are_rejected_with_both_sources(install: Callable[..., None]) -> None:
    install("eventmill-nats", "queue_nats", "acme_nats", plugin())
    install("other-nats", "queue_nats", "other_nats", plugin())
    plugins = load_plugins()
    with pytest.raises(PluginError, match="eventmill-nats 1.5.* and .*other-nats 1.5"):
        plugins.queue("nats")
    assert plugins.queue("memory")


class NoSettings(PluginSettings):
    @property
    def reach(self) -> Reach:
        return "network"


@pytest.mark.anyio
async def test_a_missing_driver_is_answered_with_the_install_command(install: Callable[..., None]) -> None:
    install("eventmill-nats", "queue_nats", "acme_nats", plugin(body="import nats_driver"))
    backend = load_plugins().queue("nats")
    with pytest.raises(PluginError, match="needs the package 'nats_driver': pip install eventmill-nats"):
        async with open_backend(backend, NoSettings()):
            pass


@pytest.mark.anyio
async def test_a_broken_import_inside_a_plugin_is_not_a_missing_driver(install: Callable[..., None]) -> None:
    install("eventmill-nats", "queue_nats", "acme_nats", plugin(body="import acme_nats.missing_part"))
    backend = load_plugins().queue("nats")
    with pytest.raises(PluginError, match="broken"):
        async with open_backend(backend, backend.settings()):
            pass
