"""What a Prometheus server would store of a member: its samples, and simple queries over them.

Queries are the ones that dashboards and alerts are made of: a sum over labels, an increase between
two scrapes, a quantile of a histogram. Nothing here knows which metrics there are.
"""

from __future__ import annotations

import math
import re
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Scrape:
    """One answer of /metrics.

    Attributes:
        types: metric name → counter, gauge or histogram.
        samples: (sample name, sorted labels) → value.
    """

    types: dict[str, str]
    samples: dict[tuple[str, Labels], float]

    def sum(self, name: str, /, **labels: str) -> float:
        """Add up the samples with this name and at least these labels; 0 if there are none."""
        return math.fsum(
            value
            for (found, pairs), value in self.samples.items()
            if found == name and labels.items() <= dict(pairs).items()
        )

    def label_values(self, name: str, label: str) -> set[str]:
        """Return which values a label has."""
        return {
            dict(pairs)[label]
            for (found, pairs) in self.samples
            if found == name and label in dict(pairs)
        }

    def label_names(self, metric: str) -> set[str]:
        """Return the names of a metric's labels, without a histogram's own."""
        names: set[str] = set()
        for found, pairs in self.samples:
            if found.removesuffix("_bucket") == metric or found == metric:
                names.update(name for name, _ in pairs)
        return names - {"le"}

    def bounds(self, metric: str) -> set[str]:
        """Return the bounds of a histogram's buckets as they are spelled."""
        return self.label_values(f"{metric}_bucket", "le")


def parse(text: str) -> Scrape:
    """Read an exposition with Prometheus' own parser.

    Types are read apart and hidden from it, because it appends ``_total`` to names of counters.
    """
    types = dict(re.findall(r"^# TYPE (\S+) (\w+)$", text, flags=re.MULTILINE))
    untyped = re.sub(r"^(# TYPE \S+) \w+$", r"\1 untyped", text, flags=re.MULTILINE)
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): float(sample.value)
        for family in text_string_to_metric_families(untyped)
        for sample in family.samples
    }
    return Scrape(types, samples)


def scrape(endpoint: str) -> Scrape:
    """Scrape ``host:port``."""
    with urllib.request.urlopen(f"http://{endpoint}/metrics", timeout=30) as answer:
        return parse(answer.read().decode())


def increase(before: Scrape, after: Scrape, name: str, /, **labels: str) -> float:
    """Return what a counter has grown by between two scrapes."""
    return after.sum(name, **labels) - before.sum(name, **labels)


def quantile(scrapes: Iterable[Scrape], metric: str, q: float) -> float:
    """Return the upper bound of the bucket that holds the quantile; NaN without observations."""
    found = list(scrapes)
    total = sum(s.sum(f"{metric}_count") for s in found)
    if not total:
        return math.nan
    by_bound: list[tuple[float, str]] = sorted(
        (float(bound), bound) for bound in {b for s in found for b in s.bounds(metric)}
    )
    for bound, spelled in by_bound:
        if sum(s.sum(f"{metric}_bucket", le=spelled) for s in found) >= q * total:
            return bound
    raise AssertionError(f"the last bucket of {metric} does not hold everything")


Alert = Callable[[list[Scrape], list[Scrape]], bool]
"""(scrapes of all members before, after) → whether it would fire."""
