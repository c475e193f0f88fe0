"""The contract suites catch backends that break the contract."""

import fcntl
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from contract import queue_saboteurs, store_saboteurs
from eventmill.testing import QueueContract

SUITES = {
    "queue": ("QueueContract", "MemoryQueueSettings", "lease_seconds=1", queue_saboteurs),
    "store": ("StoreContract", "MemoryStoreSettings", "", store_saboteurs),
}
CASES = [(kind, saboteur) for kind, suite in SUITES.items() for saboteur in suite[3].CAUGHT_BY]

_IMPORTS = """
import pytest
from contract import {kind}_saboteurs as saboteurs
from eventmill.testing import {contract}
from eventmill_{kind}_memory.settings import {settings}
"""
_CLASS = """
class Test{name}({contract}):
    backend = saboteurs.sabotage(saboteurs.{name})

    @pytest.fixture
    def settings(self):
        return {settings}({arguments})

    @pytest.fixture
    def server(self):
        yield saboteurs.SWITCH.reset()
        saboteurs.SWITCH.reset()  # a test that a saboteur fails may leave it down
"""


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, str]]:
    """Return (class, test) of each failure, after every saboteur ran the test that must catch it, and Honest all tests.

    The test processes share one run, which takes half a minute.
    """
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    result = shared / "saboteurs.json"
    with (shared / "saboteurs.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not result.exists():
            result.write_text(json.dumps(sorted(run_all(tmp_path_factory.mktemp("saboteurs")))))
        return {(name, test) for name, test in json.loads(result.read_text())}


def run_all(folder: Path) -> set[tuple[str, str]]:
    nodes = []
    for kind, (contract, settings, arguments, saboteurs) in SUITES.items():
        module = folder / f"test_{kind}.py"
        names = ["Honest", *(saboteur.__name__ for saboteur in saboteurs.CAUGHT_BY)]
        words = {"kind": kind, "contract": contract, "settings": settings, "arguments": arguments}
        module.write_text(_IMPORTS.format(**words) + "".join(_CLASS.format(name=name, **words) for name in names))
        nodes += [f"{module}::TestHonest"]
        nodes += [f"{module}::Test{s.__name__}::{caught_by}" for s, caught_by in saboteurs.CAUGHT_BY.items()]
    output = run_pytest(folder, "-n", "8", *nodes)
    lines = output.splitlines()
    assert "error" not in lines[-1], [line for line in lines if line.startswith("ERROR")][:10] + lines[-1:]
    return set(re.findall(r"^FAILED .*::Test(\w+)::(\w+)", output, re.MULTILINE))


def run_pytest(folder: Path, *arguments: str) -> str:
    """Run pytest in a process of its own, as a plugin's author would; return what it printed."""
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "-W", "error", "-p", "no:cacheprovider", *arguments]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "COLUMNS": "200"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.stdout


@pytest.mark.parametrize(("kind", "saboteur"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_a_backend_that_breaks_the_contract_is_caught(kind: str, saboteur: type, failed: set[tuple[str, str]]) -> None:
    caught_by = SUITES[kind][3].CAUGHT_BY[saboteur]
    assert (saboteur.__name__, caught_by) in failed


def test_an_honest_backend_passes_the_whole_suite(failed: set[tuple[str, str]]) -> None:
    assert {test for name, test in failed if name == "Honest"} == set()


@pytest.mark.parametrize("module", [queue_saboteurs, store_saboteurs])
def test_every_saboteur_is_named_with_the_test_that_catches_it(module: object) -> None:
    base = module.Honest  # type: ignore[attr-defined]  # both modules have one
    classes = {item for item in vars(module).values() if isinstance(item, type) and issubclass(item, base)}
    helpers = {base, getattr(module, "Newest", base)}
    assert classes - helpers == set(module.CAUGHT_BY)  # type: ignore[attr-defined]


def test_overriding_a_test_of_the_contract_needs_a_reason() -> None:
    with pytest.raises(TypeError, match="reason"):
        type("TestSilent", (QueueContract,), {"test_bodies_come_back_byte_for_byte": lambda self: None})

    @pytest.mark.xfail(reason="this service swaps bytes")
    def deviating(self: QueueContract) -> None: ...

    class Mixin:
        async def test_bodies_come_back_byte_for_byte(self) -> None: ...

    with pytest.raises(TypeError, match="reason"):
        type("TestMixedIn", (Mixin, QueueContract), {})

    type("TestLoud", (QueueContract,), {"test_bodies_come_back_byte_for_byte": deviating})
