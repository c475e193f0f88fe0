"""A day's question over 10 million rows: eventmill's table against the layout ORDER BY (event_id, timestamp).

    python benchmarks/query_day.py [ROWS]

Both tables lie in the same chDB engine and hold the same rows: 20 skewed event names, 90 days, 100 000 users, half of
the rows sent twice. Each round asks both in turn for the same day; the figures are medians over the rounds.
"""

import json
import shutil
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import clickhouse_connect
from clickhouse_connect.driver.client import Client

from eventmill import MetricsQuery
from eventmill_store_clickhouse import migrations, questions
from eventmill_store_clickhouse.clickhouse_store import MAX_GROUPS

ROUNDS = 7
START_S = 1_750_000_000
DAY_S = 86_400
DATA = Path(__file__).parent / "data"

# One row of numbers(), as an event; the name's skew is that of the square root of a uniform number.
_ROW = f"""
    concat('event_', toString(toUInt8(20 * pow(sipHash64(number, 1) % 1000000 / 1000000, 2)))) AS event_name,
    toInt64({START_S}) * 1000 + sipHash64(number, 2) % (90 * {DAY_S} * 1000) AS ms,
    hex(sipHash128(number)) AS event_id,
    arrayElement(['web', 'mobile', 'bot', 'other'], 1 + sipHash64(number, 3) % 4) AS channel,
    concat('user_', toString(sipHash64(number, 4) % 100000)) AS user_id,
    concat('{{"path":"/page/', toString(number % 5000), '","status":200}}') AS metadata
"""
_REFERENCE = """
CREATE TABLE reference (
    event_id String, event_name LowCardinality(String), channel LowCardinality(String), campaign_id String,
    user_id String, timestamp Int64, tags Array(String), metadata String, processed_at DateTime64(3), version UInt64
) ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(toDateTime(timestamp)) PRIMARY KEY event_id ORDER BY (event_id, timestamp)
"""
_REFERENCE_QUESTION = """
SELECT count(), uniq(user_id) FROM reference FINAL
WHERE event_name = {event_name:String} AND timestamp >= {start_s:Int64} AND timestamp <= {end_s:Int64}
"""
_STEP = 1_000_000


def fill(client: Client, rows: int) -> None:
    """Insert the rows into both tables, the first half of each step twice."""
    client.command(_REFERENCE)
    for migration in migrations.MIGRATIONS:
        for statement in migration.statements:
            client.command(statement)
    for start in range(0, rows, _STEP):
        for count in (_STEP, _STEP // 2):
            source = f"(SELECT {_ROW} FROM numbers({start}, {count}))"
            client.command(
                "INSERT INTO events (project, event_name, timestamp_ms, event_id, channel, user_id, campaign_id, tags,"
                " metadata, received_at_ms, version)"
                " SELECT 'default', event_name, ms, event_id, channel, user_id, '', ['a'], metadata, ms, ms"
                f" FROM {source}"
            )
            client.command(
                "INSERT INTO reference SELECT event_id, event_name, channel, '', user_id, intDiv(ms, 1000), ['a'],"
                f" metadata, now64(3), ms FROM {source}"
            )
        sys.stderr.write(f"\r{start + _STEP} of {rows} rows")
    sys.stderr.write("\n")


def ask(client: Client, sql: str, parameters: dict[str, object], settings: Mapping[str, object]) -> dict[str, object]:
    started = time.perf_counter()
    result = client.query(sql, parameters=parameters, settings=dict(settings))
    seconds = time.perf_counter() - started
    count, users = result.result_rows[0][-2:]
    return {"ms": seconds * 1000, "count": count, "users": users}


def rows_to_read(client: Client, sql: str, parameters: dict[str, object]) -> int:
    """How many rows the engine means to read, by its index."""
    estimate = client.query(f"EXPLAIN ESTIMATE {sql}", parameters=parameters)
    return sum(int(row["rows"]) for row in estimate.named_results())


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    folder = DATA / f"query_day_{rows}"
    fresh = not (folder / "filled").exists()
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    client = clickhouse_connect.get_client(interface="chdb", path=str(folder / "chdb"))
    if fresh:
        fill(client, rows)
        (folder / "filled").touch()
    start_s = START_S + 40 * DAY_S
    query = MetricsQuery("default", "event_3", start_s * 1000, (start_s + DAY_S) * 1000)
    ours, parameters = questions.metrics(query, MAX_GROUPS)
    reference = {"event_name": "event_3", "start_s": start_s, "end_s": start_s + DAY_S - 1}
    rounds = []
    for _ in range(ROUNDS):
        mine = ask(client, ours, parameters, questions.LIMITS)
        other = ask(client, _REFERENCE_QUESTION, reference, {})
        assert mine["count"] == other["count"]
        rounds.append((mine, other))
    report(
        {
            "rows": rows,
            "matching": rounds[0][0]["count"],
            "rows_read": rows_to_read(client, ours, parameters),
            "rows_read_reference": rows_to_read(client, _REFERENCE_QUESTION, reference),
        },
        rounds,
    )
    client.close()


def report(facts: dict[str, object], rounds: list[tuple[dict[str, object], dict[str, object]]]) -> None:
    """Print the figures: a table on a terminal, JSON in a pipe."""
    figures = facts | {
        "ms": statistics.median(float(str(mine["ms"])) for mine, _ in rounds),
        "ms_reference": statistics.median(float(str(other["ms"])) for _, other in rounds),
        "ratio": statistics.median(float(str(other["ms"])) / float(str(mine["ms"])) for mine, other in rounds),
    }
    if sys.stdout.isatty():
        for name, value in figures.items():
            print(f"{name:>22}  {value:,.1f}" if isinstance(value, float) else f"{name:>22}  {value:,}")
    else:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
