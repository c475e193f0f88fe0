"""Hostile inputs: bodies, and values in each field of an event, that must cost nobody but their sender."""

import gzip
import json
from collections.abc import Iterator

TEXTS = (
    "",
    " ",
    "\x00",
    "a\x00b",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "line\nfeed",
    "carriage\rreturn",
    "\u202eright to left",
    "\u2028line separator",
    "\ufeffbyte order mark",
    "\ud800lone surrogate",
    "e\u0301\u0301\u0301",
    "\U0001f4a9" * 64,
    "a" * 257,
    "a" * 40_000,
    "' OR 1=1 --",
    "'; DROP TABLE events; --",
    "{event_name:String}",
    "%s%n%x",
    "{0}{__class__}",
    "${jndi:ldap://x}",
    "<script>alert(1)</script>",
    "[/x]",
    "[bold]x[/]",
    "../../etc/passwd",
    "C:\\NUL",
    "\\",
    '"',
    "`id`",
    "$(id)",
    "-1",
    "NaN",
    "null",
    "*",
    "a\tb",
    "\x7f",
    "\x85",
    "\xa0",
    "＜",
)
OTHERS: tuple[object, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    1e308,
    -1e308,
    10**30,
    -(10**30),
    2**63,
    -(2**63),
    [],
    [[]],
    [None],
    ["a"] * 100,
    {},
    {"a": 1},
    {"__proto__": {}},
    {"": ""},
)
_EVENT = {"event_name": "a", "channel": "web", "user_id": "u", "timestamp": 1766717657}
_FIELDS = ("event_name", "channel", "user_id", "campaign_id", "event_id", "timestamp", "tags", "metadata")


def _raw(name: str, value: str) -> bytes:
    event = {key: content for key, content in _EVENT.items() if key != name}
    return (json.dumps(event)[:-1] + f', "{name}": {value}}}').encode()


def events() -> Iterator[bytes]:
    """Events with one hostile field."""
    for name in _FIELDS:
        for value in (*TEXTS, *OTHERS):
            yield _raw(name, json.dumps(value))
    for number in (
        "1e400",
        "-1e400",
        "1E999999999",
        "NaN",
        "Infinity",
        "-Infinity",
        "0x10",
        "01",
        "1.",
        ".5",
        "+1",
        "1_0",
    ):
        yield _raw("timestamp", number)
        yield _raw("metadata", f'{{"a": {number}}}')
    for depth in (31, 32, 33, 100, 1_000, 10_000):
        yield _raw("metadata", '{"a":' * depth + "1" + "}" * depth)
        yield _raw("metadata", '{"a": ' + "[" * depth + "]" * depth + "}")
        yield _raw("tags", "[" * depth + "]" * depth)
    for escape in ("\\ud800", "\\udfff\\ud800", "\\u0000", "\\x41", "\\", "\\u12"):
        yield _raw("user_id", f'"{escape}"')
        yield _raw("metadata", f'{{"{escape}": 1}}')
    yield b'{"event_name":"a","event_name":"b"' + json.dumps(_EVENT).encode()[20:]
    yield json.dumps(_EVENT | {"unknown": 1}).encode()
    yield json.dumps(_EVENT | {"\x1b[31m": 1}).encode()
    yield json.dumps(_EVENT | {"metadata": {"k" * 30_000: 1}}).encode()
    yield json.dumps(_EVENT | {"metadata": {str(n): n for n in range(3_000)}}).encode()


def bodies() -> Iterator[tuple[bytes, dict[str, str]]]:
    """Bodies that are hostile as a whole, with their headers."""
    plain: dict[str, str] = {}
    for text in (
        b"",
        b" ",
        b"\x00",
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b"{",
        b"}",
        b"[",
        b"]",
        b"[]",
        b"{}",
        b"null",
        b"1",
    ):
        yield text, plain
    for text in (
        b'""',
        b"true",
        b"[[]]",
        b"[{}]",
        b'{"events":{}}',
        b'{"events":[]}',
        b'{"events":[1]}',
        b"{}{}",
        b"[1,]",
    ):
        yield text, plain
    yield b"[" * 100_000, plain
    yield b"[" * 100_000 + b"]" * 100_000, plain
    yield b'{"a":' * 100_000, plain
    yield b'"' + b"a" * 1_000_000, plain
    yield b'{"events":[],"events":[]}', plain
    yield b'{"api_key":"x","api_key":"y","events":[]}', plain
    yield b'{"api_key":1,"events":[{}]}', plain
    yield b"[" + b"1," * 9_999 + b"1]", plain
    yield b"[" + b"1," * 20_000 + b"1]", plain
    zipped = {"Content-Encoding": "gzip"}
    yield b"", zipped
    yield b"no gzip", zipped
    yield gzip.compress(b"{}")[:-1], zipped
    yield gzip.compress(b"{}") + b"trailing", zipped
    yield gzip.compress(b"") * 2_000, zipped
    yield gzip.compress(b"[" * 10_000_000 + b"]" * 10_000_000), zipped
    yield gzip.compress(b" " * 30_000_000), zipped
    for encoding in ("br", "zstd", "gzip, gzip", "\x1b[31m", "identity;q=0", "a" * 8_000):
        yield b"{}", {"Content-Encoding": encoding}
    for kind in ("text/html", "application/x-ndjson; charset=utf-16", "\t", "a" * 8_000, "multipart/form-data"):
        yield b"{}", {"Content-Type": kind}
