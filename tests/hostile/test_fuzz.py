"""The short form of fuzzing; `python -m hostile.fuzz` has the long one."""

from pathlib import Path

from hostile.fuzz import fuzz


def test_every_request_of_the_schema_gets_an_answer_of_the_schema(tmp_path: Path) -> None:
    assert "16 selected" in fuzz(tmp_path, examples=15, seed=1)
