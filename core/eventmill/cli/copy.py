"""eventmill copy: copy events between stores and files."""

import asyncio
import fcntl
import hashlib
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Display

from eventmill.api.events import ProjectsResponse
from eventmill.cli.connection import RequestForbidden, Target, connect
from eventmill.cli.output import print_table
from eventmill.errors import ConfigurationError, EventmillError
from eventmill.event import Event, decode_lines
from eventmill.interfaces import Store
from eventmill.queries.cursors import write_cursor
from eventmill.runtime.backends import Chosen, choose, embedded
from eventmill.runtime.copying import (
    CopyTarget,
    FileSource,
    FileTarget,
    Progress,
    Source,
    StoreTarget,
    copy_events,
    differences,
)
from eventmill.runtime.event_files import PAGE_EVENTS, SUFFIXES, CopyFailed
from eventmill.runtime.unix_sockets import RUN_SOCKET, is_answering
from eventmill.settings import Settings, load

_STORE = "store"
_DIGEST = 12  # characters in the names of the files of an unfinished copy, which belong to its source and target
_ALL_TIME = {"from": "0", "to": "4102444800"}


def copy(source: str, target: str, key: str | None, projects: Sequence[str]) -> None:
    """Copy all events; exit 1 if the target holds fewer than were copied."""
    try:
        missing = asyncio.run(_copy(source, target, key, projects))
    except KeyboardInterrupt:
        sys.stderr.write("eventmill: interrupted: run the same command to go on\n")
        raise
    except OSError as error:
        raise CopyFailed(f"cannot write {error.filename or target}: {error.strerror}") from None
    sys.exit(1 if missing else 0)


async def _copy(source: str, target: str, key: str | None, projects: Sequence[str]) -> bool:
    reading = _open_source(source, key, projects)
    with _progress_file(source, target, projects) as file:
        progress = Progress.load(file)
        async with _open_target(target, file, progress) as opened:
            if progress.copied:
                sys.stderr.write(
                    f"going on after {progress.copied.total():,} events: newer ones than at the start are not copied\n"
                )
            try:
                await _copy_all(reading, opened, progress, file)
                _require(projects, progress, source)
            except EventmillError:
                if not progress.copied:
                    opened.discard()
                raise
            found = await opened.finish(progress.copied)
            fewer = {name for name, _, _ in differences(progress.copied, found)}
            missing = await opened.count_missing(reading, fewer) if fewer else 0
        file.unlink(missing_ok=True)
    rows = [(*name, str(count), str(found.get(name, 0))) for name, count in sorted(progress.copied.items())]
    print_table(("project", "event", "copied", "in the target"), rows)
    if missing != 0:
        sys.stderr.write(
            f"eventmill: the target lacks {missing or 'some'} of the copied events."
            " Events of users that were erased there stay hidden; for others, copy again\n"
        )
    elif fewer:
        sys.stderr.write("the source holds some events several times: the target has each of them once\n")
    return missing != 0


async def _copy_all(source: Source, target: CopyTarget, progress: Progress, file: Path) -> None:
    with _display() as display:
        task = display.add_task("copying", total=None)
        async for count in copy_events(source, target, progress, file):
            display.update(task, completed=count)


def _require(projects: Sequence[str], progress: Progress, source: str) -> None:
    """Raise CopyFailed for a project that was named and has no events."""
    copied = {project for project, _ in progress.copied}
    if missing := [project for project in projects if project not in copied]:
        raise CopyFailed(f"{source} has no events of the project {', '.join(missing)}")


def _display() -> Display:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Display(*columns, console=console, transient=True, disable=not console.is_terminal)


@contextmanager
def _progress_file(source: str, target: str, projects: Sequence[str]) -> Iterator[Path]:
    """Yield the file with the progress of this copy, which no other command may use meanwhile."""
    what = "\0".join([source, str(Path(target).absolute()), *sorted(projects)])
    file = Path(f".eventmill-copy-{hashlib.blake2b(what.encode(), digest_size=_DIGEST // 2).hexdigest()}.json")
    lock = file.with_suffix(".lock")
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(f"another command copies {source} to {target}") from None
        try:
            yield file
        finally:
            lock.unlink()


def _is_file(text: str) -> bool:
    return Path(text).suffix in SUFFIXES and not Path(text).is_dir()


def _is_folder(text: str) -> bool:
    return Path(text).is_dir()


def _open_source(text: str, key: str | None, projects: Sequence[str]) -> Source:
    if text.startswith(("http://", "https://")):
        return _Deployment(Target(url=text, key=key), projects)
    if text == _STORE:
        return _Deployment(Target(), projects)
    if not Path(text).exists():
        raise ConfigurationError(f"{text} does not exist: name a file, a data folder, `store` or the URL of an API")
    return FileSource(Path(text), projects) if _is_file(text) else _Deployment(Target(data=Path(text)), projects)


@asynccontextmanager
async def _open_target(text: str, progress_file: Path, progress: Progress) -> AsyncIterator[CopyTarget]:
    """Open a file or a store, and create its schema."""
    if text.startswith(("http://", "https://")):
        raise ConfigurationError("an API cannot be the target of a copy: `eventmill send` sends a file of events to it")
    if _is_file(text):
        path = Path(text)
        yield FileTarget(path, path.with_name(f"{path.name}.{progress_file.stem[-_DIGEST:]}.partial"), progress)
        return
    if Path(text).suffix and not _is_folder(text):
        known = ", ".join(SUFFIXES)
        raise ConfigurationError(f"{text} is neither a data folder nor a file that ends with one of {known}")
    settings = load(Settings)
    chosen = choose(settings).require_store() if text == _STORE else _choose_embedded(settings, Path(text))
    async with chosen.open() as opened:
        await opened.migrate()
        yield StoreTarget(opened)


def _choose_embedded(settings: Settings, folder: Path) -> Chosen[Store]:
    """Return the embedded store in a data folder, which is created. Raise ConfigurationError."""
    if is_answering(folder / RUN_SOCKET):
        raise ConfigurationError(f"`eventmill run` uses {folder}: stop it, or choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    queue, store = embedded(folder)
    here = settings.model_copy(update={"queue": None, "store": None})
    return choose(here, queue=queue, store=store).require_store()


class _Deployment:
    """The events of a deployment, project by project; the place is the project and the cursor of the last event."""

    def __init__(self, target: Target, projects: Sequence[str]) -> None:
        self._target = target
        self._projects = list(projects)

    async def pages(self, place: Any) -> AsyncIterator[tuple[list[Event], Any]]:
        """Yield all events, newest first in each project."""
        at, cursor = place or (None, None)
        projects = self._projects or await self._find_projects()
        for project in projects[projects.index(at) if at in projects else 0 :]:
            async with connect(replace(self._target, project=project or None)) as connection:
                wanted: dict[str, Any] = {**_ALL_TIME, "format": "lines", "limit": PAGE_EVENTS}
                while True:
                    after = {"cursor": cursor} if cursor and project == at else {}
                    lines = b"".join([chunk async for chunk in connection.stream("/events", wanted | after)])
                    if not (events := decode_lines(lines)):
                        break
                    at, cursor = project, write_cursor(events[-1])
                    yield events, (at, cursor)

    async def _find_projects(self) -> list[str]:
        """Return the projects of the deployment; [""] is that of a key for one project."""
        async with connect(self._target) as connection:
            try:
                return list((await connection.get("/projects", ProjectsResponse))["projects"])
            except RequestForbidden:
                return [""]
