"""Prometheus' text format 0.0.4, written by ourselves so that every name and type is exact.

The client library appends ``_total`` to every counter, and etcd has counters without it
(``etcd_network_snapshot_send_failures``); dashboards ask for etcd's names. Nothing here knows
what is measured. The trade-off: no library checks our output, so a test parses it with one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple, Protocol

from kvstore.histogram import Histogram

Series = Mapping[tuple[str, ...], float | Histogram]
"""Label values, in the order of the metric's label names → value."""

Value = float | Histogram | Series
"""What a metric stands at: one number or histogram, or one for each set of label values."""


class Spec(NamedTuple):
    """What is fixed about a metric.

    Attributes:
        kind: ``counter``, ``gauge`` or ``histogram``.
        buckets: upper bounds; empty unless it is a histogram.
    """

    kind: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


class MetricsSource(Protocol):
    """What the server implements to be measured."""

    def metrics(self) -> Mapping[str, Value]:
        """Return the current values by metric name; a name left out is not exposed.

        Called on the event loop, once for each scrape; must not block.
        """
        ...


def exposition(source: MetricsSource, specs: Mapping[str, Spec]) -> Callable[[], bytes]:
    """Return the function that makes one scrape's text.

    The function raises KeyError for a value without a spec and ValueError for one that does not
    fit its spec: both are mistakes of the server, and never leave as a wrong metric.
    """

    def scrape() -> bytes:
        lines: list[str] = []
        for name, value in source.metrics().items():
            _write(lines, name, specs[name], value)
        return "\n".join((*lines, "")).encode()

    return scrape


def _write(lines: list[str], name: str, spec: Spec, value: Value) -> None:
    series: Series = {(): value} if isinstance(value, int | float | Histogram) else value
    if not series:
        return
    text = spec.help.replace("\\", "\\\\").replace("\n", "\\n")
    lines.append(f"# HELP {name} {text}")
    lines.append(f"# TYPE {name} {spec.kind}")
    for values, number in series.items():
        if len(values) != len(spec.labels):
            raise ValueError(f"{name} has the labels {spec.labels}, not {values}")
        labels = ",".join(
            f'{label}="{_escaped(value)}"' for label, value in zip(spec.labels, values, strict=True)
        )
        if isinstance(number, Histogram):
            _write_histogram(lines, name, spec, labels, number)
        elif spec.kind == "histogram":
            raise ValueError(f"{name} is a histogram")
        elif labels:
            lines.append(f"{name}{{{labels}}} {_number(number)}")
        else:
            lines.append(f"{name} {_number(number)}")


def _write_histogram(
    lines: list[str], name: str, spec: Spec, labels: str, histogram: Histogram
) -> None:
    if spec.kind != "histogram" or histogram.bounds != spec.buckets:
        raise ValueError(f"{name} is a {spec.kind} with the buckets {spec.buckets}")
    before = f"{labels}," if labels else ""
    cumulative = histogram.cumulative()
    for bound, count in zip((*spec.buckets, math.inf), cumulative, strict=True):
        lines.append(f'{name}_bucket{{{before}le="{go_float(bound)}"}} {count}')
    after = f"{{{labels}}}" if labels else ""
    lines.append(f"{name}_sum{after} {_number(histogram.total)}")
    lines.append(f"{name}_count{after} {cumulative[-1]}")


def _escaped(value: str) -> str:
    if "\\" in value or '"' in value or "\n" in value:
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return value


def _number(value: float) -> str:
    """The shortest text of a value; any parser reads it, Go's spelling is not needed here."""
    if isinstance(value, float) and math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(value)


@lru_cache(maxsize=1024)
def go_float(value: float) -> str:
    """Spell a number as Go's ``%g`` with the fewest digits does: the text of a label ``le``.

    Series of ours and of etcd's then have equal labels, so that queries may join them.
    """
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    _, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    assert isinstance(exponent, int)
    magnitude = len(digits) + exponent - 1
    if -5 < magnitude < 6 or value == 0:
        return repr(value).removesuffix(".0")
    whole, *rest = map(str, digits)
    mantissa = f"{whole}.{''.join(rest)}" if rest else whole
    return f"{'-' if value < 0 else ''}{mantissa}e{magnitude:+03d}"
