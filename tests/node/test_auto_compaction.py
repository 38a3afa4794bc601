"""Auto-compaction's schedules on virtual time."""

from __future__ import annotations

import pytest

from kvstore.node.auto_compaction import (
    MIN_SAMPLE_S,
    REVISION_INTERVAL_S,
    PeriodicSchedule,
    RevisionSchedule,
    Schedule,
)

MINUTE, HOUR = 60.0, 3600.0


def run(
    schedule: Schedule,
    ticks: int,
    rate: int = 1,
    leads: bool = True,
    start: float = 0.0,
    revision: int = 1,
) -> list[tuple[float, int]]:
    """(time, revision) of each compaction in so many intervals of `rate` revisions each."""
    done = []
    for tick in range(1, ticks + 1):
        now = start + tick * schedule.interval_s
        revision += rate
        due = schedule.due(now, revision, leads)
        if due is not None:
            schedule.compacted(now, due)
            done.append((now, due))
    return done


def test_window_of_an_hour_is_sampled_every_six_minutes() -> None:
    """CMP-12: the first compaction after one period, at the revision of its beginning."""
    schedule = PeriodicSchedule(HOUR, 0.0, revision=1)
    assert schedule.interval_s == 6 * MINUTE
    assert run(schedule, ticks=9) == []
    schedule = PeriodicSchedule(HOUR, 0.0, revision=1)
    # After that once an hour; a sample then is kept for between one period and a tenth more.
    assert run(schedule, ticks=30) == [(HOUR, 1), (2 * HOUR, 10), (3 * HOUR, 20)]


def test_long_window_is_compacted_every_hour_once_it_is_full() -> None:
    """CMP-12: sampling is by tenths of an hour at most."""
    schedule = PeriodicSchedule(24 * HOUR, 0.0, revision=1)
    assert schedule.interval_s == 6 * MINUTE
    done = run(schedule, ticks=10 * 26)
    assert [at / HOUR for at, _ in done] == pytest.approx([24, 25, 26])
    for at, revision in done:
        age = at - (revision - 1) * schedule.interval_s
        assert 24 * HOUR <= age <= 24 * HOUR + schedule.interval_s


def test_short_window_keeps_what_is_younger() -> None:
    schedule = PeriodicSchedule(5.0, 0.0, revision=1)
    assert schedule.interval_s == 0.5
    done = run(schedule, ticks=100, rate=7)
    assert [at for at, _ in done] == [5.0 * n for n in range(1, 11)]
    for at, revision in done:
        assert at - (revision - 1) / 7 * 0.5 >= 5.0


def test_failed_compaction_is_tried_again_a_tenth_later() -> None:
    schedule = PeriodicSchedule(HOUR, 0.0, revision=1)
    run(schedule, ticks=9)
    failed = schedule.due(HOUR, 11, leads=True)
    assert failed is not None
    again = schedule.due(HOUR + 6 * MINUTE, 12, leads=True)
    assert again is not None and again >= failed


def test_nothing_new_is_not_compacted_again() -> None:
    assert len(run(PeriodicSchedule(HOUR, 0.0, revision=1), ticks=100, rate=0)) == 1
    assert len(run(RevisionSchedule(5), ticks=10, rate=0, revision=9)) == 1


@pytest.mark.parametrize(
    ("schedule", "first"),
    [(PeriodicSchedule(HOUR, 0.0, revision=1), 41), (RevisionSchedule(10), 42)],
)
def test_only_the_leader_compacts(schedule: Schedule, first: int) -> None:
    """CMP-12: and a new leader knows the window that it saw as a follower."""
    assert run(schedule, ticks=50, leads=False) == []
    start = 50 * schedule.interval_s
    done = run(schedule, ticks=1, start=start, revision=51)
    assert done == [(start + schedule.interval_s, first)]


def test_revision_mode_keeps_so_many_revisions() -> None:
    """CMP-12: every five minutes, nothing before there are more."""
    done = run(RevisionSchedule(1000), ticks=5, rate=400)
    assert done == [
        (3 * REVISION_INTERVAL_S, 201),
        (4 * REVISION_INTERVAL_S, 601),
        (5 * REVISION_INTERVAL_S, 1001),
    ]


def test_tiny_window_does_not_spin() -> None:
    """A limit: MIN_SAMPLE_S between two looks."""
    assert PeriodicSchedule(1e-9, 0.0, revision=1).interval_s == MIN_SAMPLE_S
