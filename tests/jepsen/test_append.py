"""Transactions on lists: a serial server is accepted, each anomaly is named."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepsen.checkers import append
from jepsen.history import Op, Outcome
from jepsen.verdict import Validity


def txn(start: int, end: int, *steps: tuple[Any, ...], outcome: Outcome = Outcome.OK) -> Op:
    """Steps: ("a", key, element) and ("r", key, list found)."""
    value = [["append", k, v] if f == "a" else ["r", k, None] for f, k, v in steps]
    result = [["append" if f == "a" else "r", k, v] for f, k, v in steps]
    done = result if outcome is Outcome.OK else None
    return Op(0, "append", "txn", "", value, start, end, outcome, done)


def serve(random: Random, count: int) -> list[Op]:
    """A serial server: each transaction takes effect at one moment of its time."""
    plans = []
    for number in range(count):
        start = random.randrange(10 * count)
        plan = []
        for step in range(random.randint(1, 4)):
            key = random.choice("xyz")
            plan.append(("a", key, f"{number}.{step}") if random.random() < 0.5 else ("r", key, 0))
        end = start + random.randint(1, 100)
        plans.append((random.uniform(start, end), start, end, plan))
    state: dict[str, list[str]] = {key: [] for key in "xyz"}
    ops = []
    for _, start, end, plan in sorted(plans):
        draw = random.random()
        outcome = Outcome.OK if draw < 0.8 else Outcome.INFO if draw < 0.9 else Outcome.FAIL
        steps: list[tuple[Any, ...]] = []
        happens = outcome is Outcome.OK or (outcome is Outcome.INFO and random.random() < 0.5)
        for f, key, element in plan:
            if f == "r":
                steps.append(("r", key, list(state[key])))
                continue
            steps.append(("a", key, element))
            if happens:
                state[key].append(str(element))
        ops.append(txn(start, end, *steps, outcome=outcome))
    return ops


@given(st.integers(0, 1 << 32))
@settings(max_examples=200, deadline=None)
def test_a_serial_server_is_accepted(seed: int) -> None:
    assert append.check(serve(Random(seed), 40)).findings == []


W1, W2 = txn(0, 1, ("a", "x", 1)), txn(2, 3, ("a", "x", 2))


@pytest.mark.parametrize(
    ("ops", "kind"),
    [
        ([txn(0, 1, ("a", "x", 1), outcome=Outcome.FAIL), txn(2, 3, ("r", "x", [1]))], "G1a"),
        ([txn(0, 1, ("a", "x", 1), ("a", "x", 2)), txn(0, 3, ("r", "x", [1]))], "G1b"),
        ([W1, txn(2, 3, ("r", "x", [1, 1]))], "duplicate element"),
        ([W1, txn(2, 3, ("r", "x", [1, 9]))], "element out of nowhere"),
        (
            [W1, W2, txn(4, 5, ("r", "x", [1])), txn(4, 5, ("r", "x", [2, 1]))],
            "incompatible order",
        ),
        ([txn(0, 1, ("a", "x", 1), ("r", "x", []))], "own writes missing"),
        # Each read what the other wrote.
        (
            [
                txn(0, 9, ("a", "x", 1), ("r", "y", [2])),
                txn(0, 9, ("a", "y", 2), ("r", "x", [1])),
            ],
            "G1c",
        ),
        # Write skew: neither saw the other.
        (
            [
                txn(0, 9, ("a", "x", 1), ("r", "y", [])),
                txn(0, 9, ("a", "y", 2), ("r", "x", [])),
                txn(20, 21, ("r", "x", [1]), ("r", "y", [2])),
            ],
            "G2",
        ),
        # A stale read: serializable, but not in real time.
        ([W1, W2, txn(4, 5, ("r", "x", [1])), txn(6, 7, ("r", "x", [1, 2]))], "G-single-realtime"),
        ([W2, txn(4, 5, ("a", "x", 1)), txn(6, 7, ("r", "x", [1, 2]))], "G0-realtime"),
    ],
)
def test_each_anomaly_is_named(ops: list[Op], kind: str) -> None:
    verdict = append.check(ops)
    assert verdict.validity is Validity.INVALID
    assert any(kind in finding.kind for finding in verdict.findings), verdict.findings
    assert all(finding.ops for finding in verdict.findings)


@given(st.integers(0, 1 << 32))
@settings(max_examples=100, deadline=None)
def test_a_stale_read_among_many_is_found(seed: int) -> None:
    random = Random(seed)
    ops = serve(random, 40)
    last = max(op.end for op in ops)
    whole = txn(last + 1, last + 2, *(("r", key, _final(ops, key)) for key in "xyz"))
    key = random.choice([k for k in "xyz" if len(_final(ops, k)) > 1] or ["x"])
    stale = _final(ops, key)[:-1]
    verdict = append.check([*ops, whole, txn(last + 3, last + 4, ("r", key, stale))])
    assert (verdict.validity is Validity.INVALID) == (len(_final(ops, key)) > 0)


def _final(ops: list[Op], key: str) -> list[Any]:
    """The longest list that anybody read."""
    steps = [step for op in ops if op.result for step in op.result]
    return max((list(found) for f, k, found in steps if (f, k) == ("r", key)), key=len, default=[])
