"""Runs the sequence of a seed, and shortens it if it differs.

Every `FRESH_EVERY`-th seed gets new clusters, so that what only a store can show that was never
compacted is met too. Dropping steps is all that shortening does: half of them, a quarter, and so on
down to single ones, as long as the rest still differs.
"""

from __future__ import annotations

from collections.abc import Sequence

from tests.differential.generator import sequence
from tests.differential.runner import Difference, Runner
from tests.differential.steps import Step

FRESH_EVERY = 25

SHRINK_RUNS = 80
"""Most sequences that are run to shorten one."""

FRESH_SHRINK_RUNS = 25
"""The same where each needs new clusters."""


def begin(runner: Runner, *, fresh: bool) -> None:
    """Bring both sides to the beginning of a sequence."""
    if fresh:
        runner.start()
    else:
        runner.reset()


def run_seed(runner: Runner, seed: int) -> None:
    """Run the sequence of a seed. AssertionError with a shortened sequence if it differs."""
    fresh = seed % FRESH_EVERY == 0
    begin(runner, fresh=fresh)
    steps = sequence(seed)
    difference = runner.run(steps)
    if difference is not None:
        raise AssertionError(report(seed, *shortened(runner, steps, difference)))


def shortened(
    runner: Runner, steps: Sequence[Step], difference: Difference
) -> tuple[list[Step], Difference, bool | None]:
    """Drop steps while the rest still differs.

    Returns:
        What is left, its difference, and whether it takes new clusters: some differences need a
        low revision, or a store that was never compacted. None: it takes what earlier sequences
        have left behind, and nothing was dropped.
    """
    left = list(steps)
    if difference.step is not None:
        left = left[: left.index(difference.step) + 1]
    for fresh in (False, True):
        begin(runner, fresh=fresh)
        again = runner.run(left)
        if again is not None:
            difference = again
            break
    else:
        return left, difference, None
    runs, size = FRESH_SHRINK_RUNS if fresh else SHRINK_RUNS, len(left) // 2
    while size:
        for end in range(len(left), 0, -size):
            fewer = left[: max(end - size, 0)] + left[end:]
            if not fewer:
                continue
            if runs == 0:
                return left, difference, fresh
            runs -= 1
            begin(runner, fresh=fresh)
            found = runner.run(fewer)
            if found is not None:
                left, difference = fewer, found
        size //= 2
    return left, difference, fresh


def report(seed: int, steps: Sequence[Step], difference: Difference, fresh: bool | None) -> str:
    """What to print about a difference."""
    options = f"--start {seed} --seeds 1 --steps {','.join(str(step.number) for step in steps)}"
    if fresh is None:
        options = f"--start {seed - 1} --seeds 2"
    elif fresh:
        options += " --fresh"
    return "\n".join(
        [
            f"seed {seed} differs:",
            *map(str, steps),
            str(difference),
            f"repeat: make differential ARGS='{options}'",
        ]
    )
