"""Messages are tried in real processes: only a process that dies of them condemns them."""

import asyncio
import itertools
import os
import resource
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from pydantic import SecretStr

import eventmill_fatal
import eventmill_store_clickhouse
import eventmill_store_memory
from eventmill import PluginSettings, Store, StoreBackend
from eventmill.consumer.trials import Verdict
from eventmill.event import encode_line
from eventmill.frames import encode_frame
from eventmill.runtime.backends import Chosen
from eventmill.runtime.trial import try_messages
from eventmill.testing import make_event
from eventmill_store_clickhouse.settings import ClickHouseStoreSettings
from eventmill_store_memory.settings import MemoryStoreSettings
from support.mill import ROOT, install, wait_until

pytestmark = pytest.mark.anyio

GOOD = encode_frame([encode_line(make_event(event_name="good"))])
TESTS = ROOT / "tests"


def frame(name: str) -> bytes:
    return encode_frame([encode_line(make_event(event_name=name))])


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for modules that children import first; the plugin with fatal events is installed there."""
    install(tmp_path, "fatal", "eventmill_fatal")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{TESTS}:{TESTS / 'plugins' / 'dying'}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
async def nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Trials leave no files behind."""
    (scratch := tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    yield
    assert list(scratch.iterdir()) == []


def fatal(folder: Path, *, fatal_start: bool = False) -> Chosen[Store]:
    """The store that kills its process, on chDB."""
    url = SecretStr(f"chdb://{folder}/chdb")
    settings = eventmill_fatal.Settings(url=url, deaths=folder / "deaths", fatal_start=fatal_start)
    return Chosen("store", eventmill_fatal.backend, settings)


async def test_a_message_that_kills_a_process_with_chdb_is_detected(tmp_path: Path) -> None:
    assert await try_messages(fatal(tmp_path), [GOOD, frame("fatal")]) is Verdict.DIED
    assert (tmp_path / "deaths").stat().st_size == 1


async def test_messages_that_do_no_harm_are_tried_beside_the_chosen_store(tmp_path: Path) -> None:
    assert await try_messages(fatal(tmp_path), [GOOD, frame("other")]) is Verdict.SURVIVED
    assert not (tmp_path / "chdb").exists()


async def test_neither_a_broken_message_nor_a_rejected_event_hides_a_fatal_one(tmp_path: Path) -> None:
    broken = [b"em\1 broken", b"nonsense", frame("rejected")]
    assert await try_messages(fatal(tmp_path), broken) is Verdict.SURVIVED
    assert await try_messages(fatal(tmp_path), [*broken, frame("fatal")]) is Verdict.DIED


async def test_a_message_that_hangs_is_distinguished_from_a_fatal_one(tmp_path: Path) -> None:
    assert await try_messages(fatal(tmp_path), [frame("hanging")], trial_seconds=1) is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("backend", "settings"),
    [
        (eventmill_store_memory.backend, MemoryStoreSettings()),
        (eventmill_store_clickhouse.backend, ClickHouseStoreSettings(url=SecretStr("chdb:///nowhere/at/all"))),
    ],
)
async def test_messages_are_tried_on_each_store_of_one_process(backend: StoreBackend, settings: PluginSettings) -> None:
    assert await try_messages(Chosen("store", backend, settings), [GOOD]) is Verdict.SURVIVED


async def test_a_process_that_dies_before_it_is_ready_discards_no_message(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert await try_messages(fatal(tmp_path, fatal_start=True), [GOOD]) is Verdict.UNKNOWN
    assert "cannot start a trial subprocess" in caplog.text


async def test_a_process_that_is_never_ready_discards_no_message(tmp_path: Path) -> None:
    assert await try_messages(fatal(tmp_path), [GOOD], start_seconds=0.01) is Verdict.UNKNOWN


async def test_a_program_that_cannot_be_imported_discards_no_message(
    tmp_path: Path, environment: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (environment / "msgspec.py").write_text("raise ImportError('half of a new version')")
    assert await try_messages(fatal(tmp_path), [frame("fatal")]) is Verdict.UNKNOWN
    assert "half of a new version" in caplog.text


async def test_a_process_that_cannot_be_started_discards_no_message(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_files = {int(name) for name in os.listdir("/proc/self/fd")}
    free = (number for number in itertools.count() if number not in open_files)
    resource.setrlimit(resource.RLIMIT_NOFILE, ([next(free), next(free)][1], hard))  # one file more, no pipe
    try:
        assert await try_messages(fatal(tmp_path), [GOOD]) is Verdict.UNKNOWN
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "Too many open files" in caplog.text


async def test_a_store_that_is_unavailable_discards_no_message() -> None:
    settings = ClickHouseStoreSettings(url=SecretStr("http://127.0.0.1:1"))
    away = Chosen("store", eventmill_store_clickhouse.backend, settings)
    assert await try_messages(away, [GOOD]) is Verdict.UNKNOWN


async def test_a_trial_that_is_cancelled_leaves_no_process(tmp_path: Path) -> None:
    def children() -> Sequence[str]:
        return [text for file in Path("/proc/self/task").glob("*/children") for text in file.read_text().split()]

    before = set(children())
    trial = asyncio.create_task(try_messages(fatal(tmp_path), [frame("hanging")]))
    await asyncio.to_thread(wait_until, (tmp_path / "hanging").exists)
    trial.cancel()
    await asyncio.wait([trial])
    assert trial.cancelled()
    assert set(children()) <= before


async def test_signals_that_end_a_program_condemn_no_message(tmp_path: Path) -> None:
    assert await try_messages(fatal(tmp_path), [frame("interrupted")]) is Verdict.SURVIVED
