"""Splitting JSON without decoding it."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventmill.ingest.rawjson import elements, members

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=5) | st.dictionaries(st.text(), children, max_size=5),
    max_leaves=20,
)


@given(st.lists(JSON, max_size=8), st.sampled_from([None, 1]), st.booleans())
def test_the_elements_of_an_array_are_found(values: list[object], indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    parts = list(elements(text))
    assert [json.loads(part.value.decode("utf-8", "surrogatepass")) for part in parts] == values
    assert all(text[part.offset :].startswith(part.value) for part in parts)


@given(st.dictionaries(st.text(), JSON, max_size=8), st.sampled_from([None, 1]))
def test_the_members_of_an_object_are_found(values: dict[str, object], indent: int | None) -> None:
    text = json.dumps(values, indent=indent).encode()
    parts = list(members(text))
    assert {json.loads(part.key): json.loads(part.value) for part in parts} == values
    assert all(text[part.offset :].startswith(part.value) for part in parts)


def test_what_is_not_json_is_found_between_the_commas() -> None:
    text = b'[{"a":1}, NaN, "\\ud800", nope, {"b": "x]},"}, \xff]'
    assert [part.value for part in elements(text)] == [
        b'{"a":1}',
        b"NaN",
        b'"\\ud800"',
        b"nope",
        b'{"b": "x]},"}',
        b"\xff",
    ]


def test_depth_does_not_matter() -> None:
    deep = b"[" * 50_000 + b"]" * 50_000
    assert [part.value for part in elements(b"[" + deep + b",1]")] == [deep, b"1"]


@pytest.mark.parametrize("text", [b"[" * 20_000_000, b"[{" + b'"":1,' * 4_000_000 + b"}]"])
def test_what_would_take_too_long_is_rejected_soon(text: bytes) -> None:
    started = time.process_time()
    with pytest.raises(ValueError, match="too complex"):
        list(elements(text))
    assert time.process_time() - started < 5


@pytest.mark.parametrize("text", [b"", b"1", b"{}", b"[", b"[1", b'["a', b'["a]', b"[1] 2", b"[[1]", b'["\\"]'])
def test_what_is_not_a_whole_array_is_rejected(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        list(elements(text))


@pytest.mark.parametrize("text", [b"", b"[]", b"{1:2}", b'{"a"}', b"{,}", b'{"a":1', b'{"a":1} x'])
def test_what_is_not_a_whole_object_is_rejected(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        list(members(text))
