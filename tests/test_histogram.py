"""Histograms count every observation once, in the first bucket that holds it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.histogram import DISK_S, FAST_S, Histogram, exponential, joined

OBSERVATIONS = st.lists(st.floats(0, 20, allow_nan=False), max_size=30)


def observed(values: list[float], bounds: tuple[float, ...] = DISK_S) -> Histogram:
    histogram = Histogram(bounds)
    for value in values:
        histogram.observe(value)
    return histogram


def test_exponential_buckets_are_etcds() -> None:
    expected = "0.001 0.002 0.004 0.008 0.016 0.032 0.064 0.128 0.256 0.512 1.024 2.048 4.096 8.192"
    assert [str(bound) for bound in exponential(0.001, 2, 14)] == expected.split()


@given(OBSERVATIONS)
@settings(max_examples=50)
def test_a_bucket_counts_all_observations_up_to_its_bound(values: list[float]) -> None:
    histogram = observed(values)
    for bound, count in zip((*DISK_S, 1e9), histogram.cumulative(), strict=True):
        assert count == sum(value <= bound for value in values)
    assert histogram.count == len(values)
    assert histogram.total == pytest.approx(sum(values))


@given(OBSERVATIONS, st.sets(st.sampled_from(FAST_S), min_size=1))
@settings(max_examples=50)
def test_coarser_buckets_are_those_one_would_have_counted(
    values: list[float], chosen: set[float]
) -> None:
    bounds = tuple(sorted(chosen))
    coarse = observed(values, FAST_S).in_buckets(bounds)
    assert coarse.counts == observed(values, bounds).counts
    assert coarse.total == pytest.approx(sum(values))


def test_buckets_that_were_not_counted_are_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.5"):
        Histogram((0.1, 1.0)).in_buckets((0.5, 1.0))


@given(OBSERVATIONS, OBSERVATIONS)
@settings(max_examples=20)
def test_joined_histograms_count_both(one: list[float], other: list[float]) -> None:
    both = joined((observed(one), observed(other)))
    assert both.counts == observed(one + other).counts


def test_histograms_of_different_buckets_are_not_joined() -> None:
    with pytest.raises(ValueError, match="different bounds"):
        joined((Histogram(DISK_S), Histogram(FAST_S)))
