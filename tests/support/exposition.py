"""What a process exposes to Prometheus."""

from collections.abc import Mapping

import httpx
from prometheus_client.parser import text_string_to_metric_families

Series = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(url: str) -> Series:
    """The values of all series by name and labels."""
    text = httpx.get(f"{url}/metrics", timeout=10).raise_for_status().text
    return parse(text)


def parse(text: str) -> Series:
    families = text_string_to_metric_families(text)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(series: Series, name: str, **labels: str) -> float:
    """The sum of the series of this name that have these labels; 0 if there is none."""
    wanted = set(labels.items())
    return sum(number for (own, given), number in series.items() if own == name and wanted <= given)


def names(series: Series) -> set[str]:
    return {name for name, _ in series}
