"""The short form of fuzzing; `python -m hostile.fuzz` has the long one."""

from pathlib import Path

import pytest

from hostile.fuzz import fuzz


@pytest.mark.parametrize(("part", "routes"), [("events", 5), ("questions", 10), ("operations", 10)])
def test_every_request_of_the_schema_gets_an_answer_of_the_schema(tmp_path: Path, part: str, routes: int) -> None:
    assert f"{routes} selected" in fuzz(tmp_path, examples=15, seed=1, part=part)
