"""The README and docs/ are true: their commands run, their answers come, and their tables are complete."""

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from eventmill import EVENT_FIELDS
from eventmill.api.metrics import PARAMETERS
from eventmill.plugins import load_plugins
from eventmill.queries.buckets import UNITS
from eventmill.queries.metrics import NUMERIC
from eventmill.queries.parameters import COMMON
from eventmill.queries.properties import TAG, TEXT_FIELDS
from support.mill import ROOT, environment, eventmill, install, running, wait_until

PAGES = sorted(
    page.relative_to(ROOT)
    for page in ROOT.rglob("*.md")
    if not any(part.startswith(".") or part == "site-packages" for part in page.relative_to(ROOT).parts[:-1])
)


def read(page: str | Path) -> str:
    return (ROOT / page).read_text()


def blocks(page: str) -> list[tuple[str, str]]:
    return re.findall(r"^```(\w+)\n(.*?)^```$", read(page), re.MULTILINE | re.DOTALL)


def rows(page: str) -> Iterator[list[str]]:
    for line in read(page).splitlines():
        if line.startswith("| `"):
            yield [cell.strip().replace("\\", "") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


@pytest.mark.parametrize(("page", "commands"), [("README.md", 6), ("docs/http.md", 2)])
def test_commands_work_as_pasted_and_answer_what_is_shown(tmp_path: Path, page: str, commands: int) -> None:
    with running("run", "--listen", "127.0.0.1:0", cwd=tmp_path) as program:
        url = program.url()

        def paste(command: str) -> str:
            command = command.replace("http://127.0.0.1:8080", url)
            command = re.sub(
                r"^(\.venv/bin/eventmill (?:send|query|funnel) .*)$", rf"\1 --url {url}", command, flags=re.MULTILINE
            )
            done = subprocess.run(
                ["bash", "-ec", command.replace("curl ", "curl --silent --show-error ")],
                cwd=ROOT,
                env=environment({}),
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{command}\n{done.stderr}"
            return done.stdout

        shown = 0
        for (kind, command), (answer_kind, answer) in itertools.pairwise(blocks(page)):
            if kind == "sh" and answer_kind == "json":
                wait_until(partial(is_answered, paste, command, answer))
                shown += 1
            elif kind == "sh" and answer_kind == "text":
                assert re.sub(r"[\d.]+ s$", "", paste(command).strip()) == re.sub(r"[\d.]+ s$", "", answer.strip())
                shown += 1
        assert shown == sum(kind == "sh" for kind, _ in blocks(page)) == commands


def is_answered(paste: Callable[[str], str], command: str, answer: str) -> bool:
    return parsed(paste(command)) == parsed(answer)


def parsed(text: str) -> list[object]:
    """The JSON objects in a text, one behind the other."""
    decoder, found, position = json.JSONDecoder(), [], 0
    while position < len(text.rstrip()):
        value, position = decoder.raw_decode(text, position)
        found.append(value)
        position += len(text[position:]) - len(text[position:].lstrip())
    return found


def test_the_table_of_settings_is_complete() -> None:
    """`make docs` writes the page."""
    done = eventmill("settings", "--markdown", cwd=ROOT)
    assert done.stdout == read("docs/settings.md")


def test_the_table_of_event_fields_is_complete() -> None:
    expected = [
        [f"`{field.sent_as}`", "yes" if field.is_required else "no", field.rule, field.meaning]
        for field in EVENT_FIELDS
        if field.sent is not None
    ]
    assert [cells for cells in rows("docs/events.md") if len(cells) == 4] == expected


def test_the_dimensions_and_measures_are_documented() -> None:
    page = read("docs/queries.md")
    assert all(f"`{name}`" in page for name in (*TEXT_FIELDS, TAG, *UNITS, *NUMERIC, *COMMON, *PARAMETERS))


def test_the_table_of_commands_is_complete() -> None:
    from typer.main import get_command

    from eventmill.cli.app import app

    listed = {cells[0].split()[1]: cells[0] for cells in rows("docs/commands.md") if cells[0].startswith("`eventmill ")}
    listed = {name.strip("`"): text for name, text in listed.items()}
    commands = get_command(app).commands  # type: ignore[attr-defined]  # a group has commands
    assert set(listed) == set(commands)
    for name, command in commands.items():
        for option in (opt for parameter in command.params for opt in parameter.opts if opt.startswith("--")):
            assert option == "--help" or option in listed[name], f"{name} {option}"


def test_every_route_is_documented(tmp_path: Path) -> None:
    with running("run", "--memory", "--listen", "127.0.0.1:0", cwd=tmp_path) as program:
        schema = json.loads(subprocess.check_output(["curl", "-sS", f"{program.url()}/openapi.json"]))
    routes = {f"`{method.upper()} {path}`" for path, methods in schema["paths"].items() for method in methods}
    page = read("docs/http.md")
    assert {route for route in routes if route not in page} == set()


def test_every_installed_backend_is_in_the_readme() -> None:
    plugins = load_plugins()
    names = [(item.source, item.record.name) for item in plugins.queues]
    names += [(item.source, item.record.name) for item in plugins.stores]
    for source, name in names:
        if source.distribution == "eventmill":
            assert f"| `{name}`" in read("README.md")


def test_the_page_in_the_plugin_guide_works(tmp_path: Path) -> None:
    [code] = [text for kind, text in blocks("docs/plugins.md") if kind == "python" and "hookimpl" in text]
    [toml] = [text for kind, text in blocks("docs/plugins.md") if kind == "toml"]
    assert toml == '[project.entry-points.eventmill]\nstore_page = "acme_store_page"\n'
    (tmp_path / "acme_store_page.py").write_text(code)
    install(tmp_path, "store_page", "acme_store_page")
    with running(
        "run", "--memory", "--listen", "127.0.0.1:0", cwd=tmp_path, settings={"PYTHONPATH": str(tmp_path)}
    ) as program:
        answer = subprocess.check_output(["curl", "-sS", f"{program.url()}/store/"])
    assert json.loads(answer) == {"warnings": ["events in the memory store are lost on exit"]}


def test_the_suite_in_the_plugin_guide_is_that_of_the_example() -> None:
    [suite] = [text for kind, text in blocks("docs/plugins.md") if kind == "python" and "StoreContract" in text]
    example = read("examples/third_party_plugin/tests/test_contract.py")
    lines = [line.split(": Path")[0].split(" ->")[0].strip() for line in suite.splitlines() if line.strip()]
    assert all(line.removesuffix("):").removesuffix(")") in example for line in lines)


def test_the_example_plugin_in_the_hooks_page_is_valid_python() -> None:
    import eventmill.hookspecs

    example = (eventmill.hookspecs.__doc__ or "").split("\n\n", 2)[2]
    compile("\n".join(line.removeprefix("    ") for line in example.splitlines()), "example", "exec")


def test_the_python_example_runs(tmp_path: Path) -> None:
    with running("run", "--listen", "127.0.0.1:0", cwd=tmp_path) as program:
        command = [sys.executable, str(ROOT / "examples/post_events.py"), program.url()]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "accepted 10 of 10" in done.stdout
    assert "visits: 10 by 3 users" in done.stdout


LINKS = [(page, link) for page in PAGES for link in re.findall(r"\]\(([^)#:]+)\)", read(page))]


@pytest.mark.parametrize(("page", "link"), LINKS, ids=str)
def test_links_lead_to_a_file(page: Path, link: str) -> None:
    assert (ROOT / page.parent / link).exists()


def test_every_page_is_linked_from_the_index() -> None:
    index = read("docs/README.md")
    assert [page.name for page in PAGES if page.parent == Path("docs") and f"({page.name})" not in index] == [
        "README.md"
    ]
    decisions = read("docs/decisions/README.md")
    pages = [page.name for page in PAGES if page.parent == Path("docs/decisions") and page.name != "README.md"]
    assert len(pages) >= 20
    assert all(f"({name})" in decisions for name in pages)


def test_the_layers_in_the_architecture_page_are_those_of_the_code() -> None:
    """`test_architecture` checks the imports against this table, so here only that each room is described."""
    page = read("docs/architecture.md")
    rooms = [path.name for path in (ROOT / "core/eventmill").iterdir() if (path / "__init__.py").exists()]
    assert all(f"| `{room}/`" in page for room in rooms)


@pytest.mark.parametrize("path", re.findall(r"`((?:core|plugins|docs|tests)/[\w/.]+)`", read("docs/architecture.md")))
def test_files_in_the_architecture_page_exist(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_no_page_has_a_placeholder(page: Path) -> None:
    assert re.findall(r"\b[A-Z]+_(?:RESULTS|HERE)\b|\bTO" + r"DO\b", read(page)) == []
