"""A figure: something measured, what it is compared with in the same run, and the bar it must hold."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """The medians over rounds of ours and of what it is compared with, and of their ratio.

    Attributes:
        name: what is measured; `of` is in words what it is compared with.
        ours, theirs: in `unit`; `theirs` is None for a figure that has a bar of its own.
        values: one per round, what the bar is about: ratios, or ours where there is nothing to compare with.
        at_least, at_most: the bar.
    """

    name: str
    of: str
    unit: str
    ours: float
    theirs: float | None
    values: Sequence[float]
    at_least: float | None = None
    at_most: float | None = None

    @property
    def value(self) -> float:
        return statistics.median(self.values)

    @property
    def holds(self) -> bool:
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )

    @property
    def bar(self) -> str:
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return f"≤ {self.at_most:g}" if self.at_most is not None else ""

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "compared_with": self.of,
            "unit": self.unit,
            "ours": round(self.ours, 4),
            "theirs": None if self.theirs is None else round(self.theirs, 4),
            "value": round(self.value, 4),
            "spread": [round(min(self.values), 4), round(max(self.values), 4)],
            "bar": self.bar,
            "holds": self.holds,
        }


def compare(
    name: str,
    of: str,
    unit: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    inverse: bool = False,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Figure:
    """A figure from one value per round of each: their ratios, ours over theirs, or `inverse` where less is better."""
    ratios = [b / a if inverse else a / b for a, b in zip(ours, theirs, strict=True)]
    return Figure(name, of, unit, statistics.median(ours), statistics.median(theirs), ratios, at_least, at_most)


def alone(name: str, unit: str, values: Sequence[float], *, at_most: float | None = None) -> Figure:
    """A figure that is compared with nothing but its bar."""
    return Figure(name, "–", unit, statistics.median(values), None, values, at_most=at_most)


def in_turn(rounds: int, *measures: Callable[[], Any]) -> list[list[Any]]:
    """Return the results of all measures by round. They alternate, so that noise affects all of them."""
    results = [[measure() for measure in measures] for _ in range(rounds)]
    return [list(column) for column in zip(*results, strict=True)]
