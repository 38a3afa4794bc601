"""The claimed order is accepted when it holds, and every kind of broken claim is found."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepsen.checkers import linearizable, revisions
from jepsen.history import Op, Outcome
from jepsen.verdict import Validity
from tests.jepsen.served import serve_registers

seeds = st.integers(0, 1 << 32)


@given(seeds, st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_correct_server_is_accepted_by_both_checkers(seed: int, unique: bool) -> None:
    ops = serve_registers(Random(seed), 60, unique=unique)
    assert revisions.check(ops).findings == []
    assert linearizable.check(ops).validity is not Validity.INVALID


@given(seeds)
@settings(max_examples=150, deadline=None)
def test_a_read_of_anything_else_is_found_by_both_or_was_possible(seed: int) -> None:
    """Whatever the search refutes, the claimed order refutes too."""
    random = Random(seed)
    ops = serve_registers(random, 40)
    reads = [op for op in ops if op.f == "read" and op.outcome is Outcome.OK]
    others = [op.result for op in reads] + [[None, 0]]
    victim = random.choice(reads)
    victim.result = random.choice(others)
    if linearizable.check(ops).validity is Validity.INVALID:
        assert revisions.check(ops).validity is Validity.INVALID


def op(f: str, value: Any, start: int, end: int, revision: int, result: Any = None) -> Op:
    return Op(0, "register", f, "k", value, start, end, Outcome.OK, result, revision)


WRITE = op("write", 1, 0, 10, 2)
OTHER = op("write", 2, 20, 30, 3)


@pytest.mark.parametrize(
    ("ops", "kind"),
    [
        ([WRITE, OTHER, op("read", None, 40, 50, 3, [1, 2])], "stale read"),
        ([WRITE, OTHER, op("read", None, 40, 50, 2, [1, 2])], "against real time"),
        ([WRITE, op("read", None, 20, 30, 2, [None, 0])], "stale read"),
        ([WRITE, op("read", None, 20, 30, 2, [7, 2])], "two values at one revision"),
        ([WRITE, op("read", None, 20, 30, 3, [7, 3])], "value out of nowhere"),
        ([WRITE, op("read", None, 5, 30, 2, [2, 3]), OTHER], "read from the future"),
        ([WRITE, replace(OTHER, revision=2)], "revision used twice"),
        ([WRITE, op("cas", [9, 3], 20, 30, 3, True)], "wrong compare"),
        ([WRITE, op("cas", [1, 3], 20, 30, 2, False)], "wrong compare"),
        ([OTHER, op("write", 5, 40, 50, 3)], "revision used twice"),
    ],
)
def test_each_kind_of_broken_claim_is_named(ops: list[Op], kind: str) -> None:
    verdict = revisions.check(ops)
    assert verdict.validity is Validity.INVALID
    assert kind in {finding.kind for finding in verdict.findings}


def test_an_open_write_that_was_seen_is_no_surprise() -> None:
    lost = replace(WRITE, outcome=Outcome.INFO, revision=0)
    seen = op("read", None, 100, 110, 2, [1, 2])
    assert revisions.check([lost, seen]).validity is Validity.VALID


def test_orders_that_contradict_each_other_across_keys_are_found() -> None:
    """Each key alone is linearizable; the two together are not strictly serializable."""
    ops = [
        replace(WRITE, key="a", revision=3, start=0, end=10),
        replace(WRITE, key="b", revision=2, start=20, end=30),
    ]
    assert linearizable.check(ops).validity is Validity.VALID
    assert revisions.check(ops).validity is Validity.INVALID
