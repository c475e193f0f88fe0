"""Short forms of all attacks: honest clients are served, memory comes back, and nothing is logged as an error.

`python -m hostile.measure` runs the long forms and measures latency.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostile.attacks import ATTACKS
from hostile.measure import be_honest, create_keys, memory_mib, start_attack
from support.mill import Program, running, wait_until

CONNECTIONS, SECONDS = 30, 2
MEMORY = {"EVENTMILL_QUEUE": "memory", "EVENTMILL_STORE": "memory"}
KEYS, HONEST, ATTACKER = create_keys()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("run")
    with running("run", "--listen", "127.0.0.1:0", cwd=folder, settings=MEMORY | KEYS) as program:
        asyncio.run(be_honest(port_of(program), HONEST, 1))
        yield program


def port_of(program: Program) -> int:
    return int(program.wait_for(r"http://127\.0\.0\.1:(\d+)")[1])


@pytest.mark.parametrize("name", ATTACKS)
def test_honest_clients_are_served_during_an_attack(program: Program, name: str) -> None:
    before = memory_mib(program)
    with start_attack(name, port_of(program), ATTACKER, SECONDS, CONNECTIONS) as attack:
        during = asyncio.run(be_honest(port_of(program), HONEST, SECONDS))
        assert attack.wait(30) == 0
    assert during.failed == 0
    wait_until(lambda: memory_mib(program) < before + 48, 30)
    assert "Traceback" not in program.output
    assert " ERROR " not in program.output


def test_the_attacks_reach_the_server(tmp_path: Path) -> None:
    settings = MEMORY | KEYS | {"EVENTMILL_MAX_CONNECTIONS": "16"}
    with running("run", "--listen", "127.0.0.1:0", cwd=tmp_path, settings=settings) as program:
        with start_attack("idle", port_of(program), ATTACKER, SECONDS, CONNECTIONS) as attack:
            program.wait_for("connections refused: .* The limit is 16")
            attack.wait(30)
        assert asyncio.run(be_honest(port_of(program), HONEST, 1)).failed == 0


def test_a_client_that_does_not_read_its_responses_is_cut_off(tmp_path: Path) -> None:
    with running("run", "--listen", "127.0.0.1:0", cwd=tmp_path, settings=MEMORY | KEYS) as program:
        files = Path(f"/proc/{program.process.pid}/fd")
        asyncio.run(be_honest(port_of(program), HONEST, 1))
        before = len(list(files.iterdir()))
        with start_attack("unread_responses", port_of(program), ATTACKER, 29, CONNECTIONS):
            wait_until(lambda: len(list(files.iterdir())) >= before + CONNECTIONS - 1)  # the honest one may still count
            wait_until(lambda: len(list(files.iterdir())) < before + 5, 28)
        assert "Traceback" not in program.output
