"""Every metric of etcd's server is exposed with etcd's type, labels and buckets, or has a reason.

``etcd_metrics.txt`` lists etcd's metrics; the last column says whether etcd's own dashboard and
alerts use one: those have no excuse.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from kvstore.histogram import exponential
from kvstore.server.metric_table import NOT_EXPOSED, SPECS

LINES = Path(__file__).with_name("etcd_metrics.txt").read_text().splitlines()[1:]


class Metric(NamedTuple):
    """One line of the list."""

    name: str
    kind: str
    labels: frozenset[str]
    buckets: tuple[float, ...]
    used: bool


def read(line: str) -> Metric:
    name, kind, labels, buckets, used = line.split()
    bounds: tuple[float, ...] = ()
    if buckets.startswith("exp:"):
        start, factor, count = buckets.removeprefix("exp:").split(",")
        bounds = exponential(float(start), float(factor), int(count))
    elif buckets != "-":
        bounds = tuple(float(bound) for bound in buckets.split(","))
    names = frozenset[str]() if labels == "-" else frozenset(labels.split(","))
    return Metric(name, kind, names, bounds, used != "-")


METRICS = {metric.name: metric for metric in map(read, LINES)}


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_of_etcd_is_exposed_or_has_a_reason(name: str) -> None:
    assert (name in SPECS) != bool(NOT_EXPOSED.get(name, "").strip())


def test_nothing_is_exposed_or_excused_that_etcd_does_not_have() -> None:
    assert {*SPECS, *NOT_EXPOSED} == set(METRICS)


def test_what_dashboards_and_alerts_use_is_exposed() -> None:
    used = {name for name, metric in METRICS.items() if metric.used}
    assert len(used) > 20
    assert used - {"up"} <= set(SPECS)


@pytest.mark.parametrize("name", SPECS)
def test_type_labels_and_buckets_are_etcds(name: str) -> None:
    spec, metric = SPECS[name], METRICS[name]
    assert spec.kind == metric.kind
    assert set(spec.labels) == metric.labels
    assert spec.buckets == pytest.approx(metric.buckets)
    assert spec.help.endswith(".")
