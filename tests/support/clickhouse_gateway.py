"""A program that serves ClickHouse's HTTP interface over chDB: the real engine behind a real socket.

    python clickhouse_gateway.py FOLDER PORT PASSWORD

It knows what clickhouse-connect sends: statements with parameters and settings, inserts, passwords, databases. It can
be told to fail: POST /fault?on=insert&kind=KIND&count=N makes the next N inserts (or questions) fail in that way. It
can be told to be older and less free: POST /profile?NAME=VALUE is its users' profile from then on; with &unknown=NAME
it does not know that setting, and with &fixed=NAME no user may change it.
"""

import base64
import json
import re
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import chdb

SLOW_SECONDS = 3
SICK = b"channel 3"  # with the fault "part", inserts with it fail, as if a shard were unavailable
TRANSPORT = {"query", "database", "query_id", "session_id", "wait_end_of_query", "send_progress_in_http_headers"}
TRANSPORT |= {"http_headers_progress_interval_ms", "client_protocol_version", "compress", "enable_http_compression"}


class Engine:
    """One folder, a handle for inserts and one for all else, each used by one thread at a time."""

    def __init__(self, folder: str) -> None:
        connect: Any = chdb.connect
        self.handles = {kind: (connect(folder), threading.Lock()) for kind in ("insert", "other")}
        self.faults: dict[str, list[str]] = {"insert": [], "question": []}
        self.profile: dict[str, str] = {}
        self.unknown: list[str] = []
        self.fixed: list[str] = []

    def run(self, kind: str, database: str, sql: str, format: str, parameters: dict[str, str]) -> Any:
        handle, lock = self.handles[kind]
        with lock:
            handle.query(f"USE `{database}`", "TabSeparated")
            return handle.query(sql, format, params=parameters)

    def run_with(self, database: str, sql: str, parameters: dict[str, str], settings: dict[str, str]) -> Any:
        """Run a statement that accepts no SETTINGS clause."""
        handle, lock = self.handles["other"]
        with lock:
            handle.query(f"USE `{database}`", "TabSeparated")
            try:
                for name, value in settings.items():
                    handle.query(f"SET {name} = {quoted(value)}", "TabSeparated")
                return handle.query(sql, "TabSeparated", params=parameters)
            finally:
                for name in settings:
                    handle.query(f"SET {name} = DEFAULT", "TabSeparated")

    def shown(self, sql: str) -> str:
        """The statement, with what it is to see of the settings."""
        fixed, unknown = (", ".join(["''", *map(quoted, names)]) for names in (self.fixed, self.unknown))
        settings = (
            f"(SELECT * REPLACE (name IN ({fixed}) AS readonly) FROM system.settings WHERE name NOT IN ({unknown}))"
        )
        return sql.replace("FROM system.settings", f"FROM {settings}")

    def refuse(self, settings: dict[str, str]) -> str:
        """Return what is wrong with the settings of a statement, in the words of ClickHouse."""
        for name, value in settings.items():
            if name in self.unknown:
                return (
                    f"Code: 115. DB::Exception: Setting {name} is neither a builtin setting nor started with the prefix"
                )
            if name in self.fixed and self.profile.get(name) != value:
                return f"Code: 452. DB::Exception: Setting {name} should not be changed. (SETTING_CONSTRAINT_VIOLATION)"
        return ""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body leave together
    engine: Engine
    password: str

    def do_GET(self) -> None:
        self.reply(200, b"Ok.\n", {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))) if "Content-Length" in self.headers else b""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = self.read_chunks()
        query = {name: values[-1] for name, values in parse_qs(urlsplit(self.path).query, True).items()}
        if urlsplit(self.path).path == "/fault":
            self.engine.faults[query["on"]] = [query["kind"]] * int(query["count"])
            self.reply(200, b"", {})
            return
        if urlsplit(self.path).path == "/profile":
            lists = parse_qs(urlsplit(self.path).query)
            self.engine.unknown, self.engine.fixed = lists.get("unknown", []), lists.get("fixed", [])
            self.engine.profile = {n: v for n, v in query.items() if n not in ("unknown", "fixed")}
            self.reply(200, b"", {})
            return
        expected = base64.b64encode(f"default:{self.password}".encode()).decode()
        if self.headers.get("Authorization") != f"Basic {expected}":
            self.fail("Code: 516. DB::Exception: default: Authentication failed. (AUTHENTICATION_FAILED)", 403)
        else:
            self.answer(query, body)

    def answer(self, query: dict[str, str], body: bytes) -> None:
        self.database = query.get("database", "default")
        parameters = {name[6:]: value for name, value in query.items() if name.startswith("param_")}
        settings = {n: v for n, v in query.items() if n not in TRANSPORT and not n.startswith("param_")}
        if refusal := self.engine.refuse(settings):
            self.fail(refusal, 404)
            return
        try:
            data = (query.get("query", "").encode() + b"\n" + body).strip()
            if head := re.match(rb"(INSERT INTO [^\n]*) FORMAT (\w+)\s*\n", data):
                self.insert(head[1].decode(), head[2].decode(), data[head.end() :], settings)
            else:
                self.statement(data.decode(), settings, parameters)
        except RuntimeError as error:
            self.fail(str(error)[str(error).find("Code: ") :])

    def statement(self, sql: str, settings: dict[str, str], parameters: dict[str, str]) -> None:
        found = re.search(r"\bFORMAT\s+(\w+)\s*$", sql)
        form = found[1] if found else "TabSeparated"
        fault = self.fault("question") if re.match(r"\s*SELECT", sql) and "version()" not in sql else ""
        if self.failed_before(fault):
            return
        if fault == "slow":
            time.sleep(SLOW_SECONDS)
        chosen = self.engine.profile | settings
        if re.match(r"\s*(SELECT|WITH)", sql):
            sql = self.engine.shown(sql) + clause(chosen)
            result = self.engine.run("other", self.database, sql, form, parameters)
        elif re.match(r"\s*DESCRIBE", sql):  # it computes constants, within limits
            result = self.engine.run("other", self.database, sql + clause(chosen), form, parameters)
        elif re.match(r"\s*EXPLAIN", sql):
            result = self.engine.run("other", self.database, sql, form, parameters)
        else:
            result = self.engine.run_with(self.database, sql, parameters, chosen)
        summary = {"read_rows": str(result.rows_read()), "written_rows": "0"}
        headers = {"X-ClickHouse-Summary": json.dumps(summary), "X-ClickHouse-Timezone": "UTC"}
        data = result.bytes() or b""
        self.reply(200, data, headers | ({"X-ClickHouse-Format": form} if data else {}))

    def insert(self, sql: str, form: str, body: bytes, settings: dict[str, str]) -> None:
        fault = self.fault("insert")
        if self.failed_before(fault):
            return
        if fault == "part" and SICK in body:
            self.fail("Code: 279. DB::Exception: All connection tries failed. (ALL_CONNECTION_TRIES_FAILED)")
            return
        with tempfile.NamedTemporaryFile() as file:
            file.write(body)
            file.flush()
            chosen = clause(self.engine.profile | settings)
            statement = f"{sql} FROM INFILE '{file.name}'{chosen} FORMAT {form}"
            written = self.engine.run("insert", self.database, statement, "TabSeparated", {}).rows_read()
        if fault == "slow":
            time.sleep(SLOW_SECONDS)
        if fault == "cut after":
            self.close_connection = True
            self.connection.close()
            return
        headers = {"X-ClickHouse-Summary": json.dumps({"written_rows": str(written // (2 if fault == "half" else 1))})}
        if fault == "exception in 200":
            headers["X-ClickHouse-Exception-Code"] = "209"
        self.reply(200, b"", headers)

    def fault(self, kind: str) -> str:
        faults = self.engine.faults[kind]
        return faults.pop(0) if faults else ""

    def failed_before(self, fault: str) -> bool:
        """Show a fault that comes before the engine has done anything."""
        if fault == "500":
            self.fail("Code: 210. DB::Exception: out of luck. (NETWORK_ERROR)")
        elif fault == "misconfigured":
            self.fail("Code: 16. DB::Exception: No such column tags. (NO_SUCH_COLUMN_IN_TABLE)", 404)
        elif fault == "denied":
            self.fail("Code: 497. DB::Exception: default: Not enough privileges. (ACCESS_DENIED)", 403)
        elif fault == "cut before":
            self.close_connection = True
            self.connection.close()
        return fault in ("500", "misconfigured", "denied", "cut before")

    def read_chunks(self) -> bytes:
        chunks = []
        while size := int(self.rfile.readline().strip(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def fail(self, message: str, status: int = 500) -> None:
        code = re.search(r"Code: (\d+)", message)
        self.reply(status, message.encode(), {"X-ClickHouse-Exception-Code": code[1] if code else "1002"})

    def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *arguments: object) -> None:
        return


def quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def clause(settings: dict[str, str]) -> str:
    chosen = [f"{name} = {quoted(value)}" for name, value in settings.items()]
    return f" SETTINGS {', '.join(chosen)}" if chosen else ""


class Server(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients are killed while they talk: that is what these tests are for."""


def main() -> None:
    folder, port, password = sys.argv[1:]
    Handler.engine, Handler.password = Engine(folder), password
    server = Server(("127.0.0.1", int(port)), Handler)
    sys.stdout.write(f"listening at {server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
