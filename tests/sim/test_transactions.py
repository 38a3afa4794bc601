"""Many-key requests in the simulation: every answer and every revision is what a model computes."""

from __future__ import annotations

from jepsen.sim.plan import Plan
from jepsen.sim.simulator import run

SEEDS = 4


def test_transactions_counts_filters_and_alarms_keep_their_promises_under_faults() -> None:
    """TXN-04, TXN-07, TXN-08, TXN-14, TXN-17, RNG-13, WCH-26: also nested, also refused ones."""
    counts: dict[str, int] = {}
    for seed in range(SEEDS):
        for what, count in run(Plan(seed, transactors=2)).counts.items():
            counts[what] = counts.get(what, 0) + count
    expected = {
        *("many-key transaction", "transaction refused", "range with a count"),
        *("filtered watch", "alarm"),
    }
    assert expected <= counts.keys()
