"""Queries of `eventmill run` stay within the memory of its container."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from support.limited_memory import Group, NoControlGroup, limited_memory
from support.mill import eventmill, running

MEGABYTES = 900
_FILL = """
import sys, chdb
connection = chdb.connect(sys.argv[1])
connection.query('''
    INSERT INTO events (project, event_name, timestamp, event_id, channel, user_id, metadata)
    SELECT 'default', ['view', 'cart', 'buy'][1 + number % 3], now64(3) - number % 86000, toString(number),
        ['web', 'ios'][1 + number % 2], concat('user ', toString(cityHash64(number) % 3000000)), '{}'
    FROM numbers(6000000)
''')
connection.close()
"""
HEAVY = [
    "/metrics?group_by=channel&group_by=hour",
    "/metrics?group_by=user_id&limit=10",
    "/metrics?measure=users&precision=approximate",
    "/events?limit=1000",
]


@pytest.fixture
def group() -> Iterator[Group]:
    try:
        with limited_memory(MEGABYTES) as group:
            yield group
    except NoControlGroup as reason:
        pytest.skip(str(reason))


def test_questions_that_need_more_memory_than_there_is_are_refused_and_take_nothing_down(
    tmp_path: Path, group: Group
) -> None:
    store = {
        "EVENTMILL_STORE": "clickhouse",
        "EVENTMILL_STORE_CLICKHOUSE_URL": f"chdb://{tmp_path}/eventmill-data/chdb",
    }
    done = eventmill("migrate", cwd=tmp_path, settings=store | {"EVENTMILL_QUEUE": "memory"})
    assert done.returncode == 0, done.stderr
    subprocess.run([sys.executable, "-c", _FILL, tmp_path / "eventmill-data" / "chdb"], check=True)
    with ExitStack() as stack:
        with group.joined():
            program = stack.enter_context(running("run", "--listen", "127.0.0.1:0", cwd=tmp_path))
        url = program.url()
        answers = [httpx.get(f"{url}{path}", timeout=30) for path in HEAVY]
        steps = {"steps": [{"event_name": name} for name in ("view", "cart", "buy")]}
        answers.append(httpx.post(f"{url}/funnels", json=steps, timeout=30))
        for answer in answers:
            is_refused = answer.status_code == 400 and re.search("memory|longer than 10 s", answer.json()["message"])
            assert answer.status_code == 200 or is_refused, answer.text
        assert any(answer.status_code == 400 for answer in answers)
        assert httpx.get(f"{url}/health/ready").json()["status"] == "ok"
        assert program.stop() == 0
