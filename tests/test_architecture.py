"""Imports go downwards, plugins use the one door, and nothing heavy is imported before it is needed."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.mill import ROOT

CORE = ROOT / "core" / "eventmill"
PAGE = (ROOT / "docs" / "architecture.md").read_text()
LAYERS = [set(re.findall(r"`(\w+)`", row)) for row in re.findall(r"^\| \d+ \| (.*) \|$", PAGE, re.MULTILINE)]
FREE = {"testing", "__init__", "__main__"}
FILES = sorted(CORE.rglob("*.py"))
PLUGIN_FILES = [
    *sorted((ROOT / "plugins").rglob("*.py")),
    *sorted((ROOT / "examples").rglob("eventmill_*/*.py")),
    *sorted((CORE / "testing").glob("*.py")),
    *sorted((CORE / "testing").glob("*_contract/*.py")),
]


def imports(file: Path) -> list[str]:
    """The full names of eventmill's modules that a file imports."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in found if name.split(".")[0].startswith("eventmill")]


def layer(name: str) -> int:
    return next(number for number, names in enumerate(LAYERS) if name in names)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CORE)))
def test_imports_go_only_downwards(file: Path) -> None:
    part = file.relative_to(CORE).with_suffix("").parts[0]
    if part in FREE:
        return
    for name in imports(file):
        target = name.split(".")[1] if "." in name else "__init__"
        assert target != "testing", f"{file.name} imports {name}"
        if target not in FREE and target != part:
            assert layer(target) > layer(part), f"{file.name} imports {name}"


def test_every_module_has_its_layer() -> None:
    parts = {file.relative_to(CORE).with_suffix("").parts[0] for file in FILES}
    assert parts - FREE == set().union(*LAYERS)


@pytest.mark.parametrize("file", PLUGIN_FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_plugins_use_only_the_public_names(file: Path) -> None:
    import eventmill

    own = next((part for part in file.parts if part.startswith("eventmill_")), "tests")
    for name in imports(file):
        package, _, rest = name.partition(".")
        is_public = package == "eventmill" and (rest in dir(eventmill) or rest.startswith("testing."))
        assert is_public or package == own or "tests" in file.parts, f"{file.name} imports {name}"


def test_the_public_names_are_the_same_for_type_checkers_and_at_runtime() -> None:
    import eventmill

    source = (CORE / "__init__.py").read_text()
    checked = re.findall(r"^    from \S+ import (\w+) as \1$", source, re.MULTILINE)
    assert sorted(checked) == dir(eventmill)
    assert all(hasattr(eventmill, name) for name in dir(eventmill))


def loaded_by(code: str) -> set[str]:
    """The modules that are loaded after running this code in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys, json\nprint(json.dumps(list(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_listing_plugins_imports_no_backend() -> None:
    loaded = loaded_by("from eventmill.plugins import load_plugins; assert load_plugins().queues")
    assert not loaded & {"eventmill_queue_memory.memory_queue", "eventmill_store_memory.memory_store"}


def test_the_public_api_imports_no_server_and_no_test_tools() -> None:
    assert not loaded_by("import eventmill") & {"fastapi", "uvicorn", "typer", "rich", "pytest", "httpx"}


def test_nothing_that_is_shipped_speaks_of_unfinished_work() -> None:
    marks = ("TO" + "DO", "FIX" + "ME", "XX" + "X")
    for file in [*FILES, *PLUGIN_FILES]:
        assert not any(mark in file.read_text() for mark in marks), file
