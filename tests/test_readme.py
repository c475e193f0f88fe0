"""What the README says is true: its commands run, its answers come, its tables are complete."""

import itertools
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from eventmill.plugins import load_plugins
from eventmill.settings import Settings
from mill import ROOT, environment, running, wait_until

README = (ROOT / "README.md").read_text()
BUILT_IN = ("eventmill_queue_", "eventmill_store_memory", "eventmill_store_clickhouse")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def rows() -> Iterator[list[str]]:
    for line in README.splitlines():
        if line.startswith("| `"):
            yield [cell.strip().replace("\\", "") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_the_commands_work_as_pasted_and_answer_what_is_shown(tmp_path: Path) -> None:
    with running("run", "--listen", "127.0.0.1:0", cwd=tmp_path) as program:
        url = program.url()

        def paste(command: str) -> str:
            command = command.replace("http://127.0.0.1:8080", url)
            command = re.sub(r"^(\.venv/bin/eventmill send .*)$", rf"\1 --url {url}", command, flags=re.MULTILINE)
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
        for (kind, command), (answer_kind, answer) in itertools.pairwise(BLOCKS):
            if kind == "sh" and answer_kind == "json":
                wait_until(partial(is_answered, paste, command, answer))
                shown += 1
            elif kind == "sh" and answer_kind == "text":
                assert re.sub(r"[\d.]+ s$", "", paste(command).strip()) == re.sub(r"[\d.]+ s$", "", answer.strip())
                shown += 1
        assert shown == sum(kind == "sh" for kind, _ in BLOCKS) == 5


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


def test_every_setting_stands_in_the_table_with_its_default_and_meaning() -> None:
    plugins = load_plugins()
    expected = []
    kinds: list[type[BaseSettings]] = [Settings]
    kinds += [item.record.settings for item in plugins.queues]
    kinds += [item.record.settings for item in plugins.stores]
    for kind in (kind for kind in kinds if kind is Settings or kind.__module__.startswith(BUILT_IN)):
        for name, field in kind.model_fields.items():
            if field.validation_alias is not None:  # a setting of core's, which a plugin reads too
                continue
            variable = f"{kind.model_config['env_prefix']}{name}".upper()
            default = "" if field.default in (None, PydanticUndefined) else str(field.default)
            expected.append([f"`{variable}`", default, field.description])
    table = [cells for cells in rows() if cells[0].startswith("`EVENTMILL_")]
    assert table == expected


def test_every_command_stands_in_the_table(tmp_path: Path) -> None:
    from typer.main import get_command

    from eventmill.cli.app import app

    listed = {cells[0].split()[1]: cells[0] for cells in rows() if cells[0].startswith("`eventmill ")}
    listed = {name.strip("`"): text for name, text in listed.items()}
    commands = get_command(app).commands  # type: ignore[attr-defined]  # a group has commands
    assert set(listed) == set(commands)
    for name, command in commands.items():
        for option in (opt for parameter in command.params for opt in parameter.opts if opt.startswith("--")):
            assert option == "--help" or option in listed[name], f"{name} {option}"


def test_every_route_stands_in_the_readme() -> None:
    for route in ("POST /events", "POST /events/bulk", "GET /metrics", "GET /health", "GET /health/live"):
        assert f"`{route}`" in README
    for route in ("GET /health/ready", "GET /docs", "GET /openapi.json"):
        assert f"`{route}`" in README


def test_every_installed_backend_stands_in_the_readme() -> None:
    plugins = load_plugins()
    names = [(item.source, item.record.name) for item in plugins.queues]
    names += [(item.source, item.record.name) for item in plugins.stores]
    for source, name in names:
        if source.distribution == "eventmill":
            assert f"| `{name}`" in README


def test_the_plugin_in_the_readme_works(tmp_path: Path) -> None:
    [code] = [text for kind, text in BLOCKS if kind == "python" and "hookimpl" in text]
    [toml] = [text for kind, text in BLOCKS if kind == "toml"]
    assert len(code.split("\n\n\n", 1)[1].splitlines()) <= 20
    (tmp_path / "acme_store_page.py").write_text(code)
    metadata = tmp_path / "acme-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    assert toml.startswith("[project.entry-points.eventmill]\n")
    (metadata / "entry_points.txt").write_text("[eventmill]\n" + toml.split("\n", 1)[1].replace('"', ""))
    with running(
        "run", "--memory", "--listen", "127.0.0.1:0", cwd=tmp_path, settings={"PYTHONPATH": str(tmp_path)}
    ) as program:
        done = subprocess.run(["curl", "-sS", f"{program.url()}/store/"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"store says": ["the memory store is lost on exit"]}


def test_the_suite_in_the_readme_is_the_examples(tmp_path: Path) -> None:
    [suite] = [text for kind, text in BLOCKS if kind == "python" and "StoreContract" in text]
    example = (ROOT / "examples/third_party_plugin/tests/test_contract.py").read_text()
    lines = [line.split(": Path")[0].split(" ->")[0].strip() for line in suite.splitlines() if line.strip()]
    assert all(line.removesuffix("):").removesuffix(")") in example for line in lines)


def test_the_python_example_runs(tmp_path: Path) -> None:
    with running("run", "--listen", "127.0.0.1:0", cwd=tmp_path) as program:
        import sys

        command = [sys.executable, str(ROOT / "examples/post_events.py"), program.url()]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "accepted 10 of 10" in done.stdout
    assert "visits: 10 by 3 users" in done.stdout


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)\)", README))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
