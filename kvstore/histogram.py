"""Histograms for the metrics: observations counted into fixed buckets, nothing else.

It stands at the bottom of the house because every layer may have something to measure; what a
histogram is called and how it leaves is `rpc/exposition.py`'s business. The trade-off: an
observation is one bisection and two additions, with no lock; a reader on another thread may see a
count without its sum for a moment.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate
from typing import Final


def exponential(start: float, factor: float, count: int) -> tuple[float, ...]:
    """Return ``count`` upper bounds of buckets: start, start·factor, start·factor²…"""
    return tuple(start * factor**i for i in range(count))


DISK_S: Final = exponential(0.001, 2, 14)
"""Seconds; what etcd measures fsyncs, commits and proposals with."""

FAST_S: Final = exponential(0.0001, 2, 20)
"""Seconds; what etcd measures applies and ranges with."""


class Histogram:
    """Observations counted into buckets. For one observing thread.

    Attributes:
        bounds: ascending upper bounds, inclusive; what is above the last counts as +Inf.
        counts: observations in each bucket, +Inf last, not cumulative.
        total: sum of all observations.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...] = DISK_S) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one observation, in the unit of ``bounds``."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """Number of observations."""
        return sum(self.counts)

    def cumulative(self) -> list[int]:
        """Return the number of observations up to each bound, +Inf last."""
        return list(accumulate(self.counts))

    def in_buckets(self, bounds: tuple[float, ...]) -> Histogram:
        """Return the same observations in coarser buckets.

        Raises ValueError when `bounds` has one that this histogram lacks: that would be a guess.
        """
        coarse = Histogram(bounds)
        position = {bound: i for i, bound in enumerate(self.bounds)}
        if not position.keys() >= set(bounds):
            raise ValueError(f"bounds {sorted(set(bounds) - position.keys())} are not counted")
        up_to = self.cumulative()
        below = 0
        for i, bound in enumerate(bounds):
            coarse.counts[i] = up_to[position[bound]] - below
            below = up_to[position[bound]]
        coarse.counts[-1] = up_to[-1] - below
        coarse.total = self.total
        return coarse


def joined(histograms: Iterable[Histogram]) -> Histogram:
    """Return the sum of at least one histogram; all must have the same bounds."""
    first, *others = histograms
    total = Histogram(first.bounds)
    for histogram in (first, *others):
        if histogram.bounds != first.bounds:
            raise ValueError("histograms with different bounds cannot be added")
        total.counts = [a + b for a, b in zip(total.counts, histogram.counts, strict=True)]
        total.total += histogram.total
    return total
