"""What was acknowledged is on every member in the end, and revisions never go back."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepsen.checkers import durability, monotonic
from jepsen.history import Op, Outcome
from jepsen.verdict import Validity
from tests.jepsen.served import serve_registers


def op(
    workload: str, f: str, value: Any, time: int, result: Any = None, revision: int = 0, **more: Any
) -> Op:
    made = Op(0, workload, f, "k", value, time, time + 5, Outcome.OK, result, revision, "m0")
    return replace(made, **more)


def looks(workload: str, f: str, value: Any, *results: Any) -> list[Op]:
    """The last look on one member after the other."""
    return [
        op(workload, f, value, 1000 + n, result, client=-1, member=f"m{n}")
        for n, result in enumerate(results)
    ]


WRITES = [
    op("register", "write", 1, 10, None, 2),
    op("register", "cas", [1, 2], 20, True, 3),
    op("register", "cas", [7, 9], 30, False, 3),
    op("register", "write", 8, 40, outcome=Outcome.INFO),
]
ADDS = [op("set", "add", 1, 10), op("set", "add", 2, 20, outcome=Outcome.INFO)]
APPENDS = [op("append", "txn", [["append", "x", 1], ["r", "y", None]], 10)]
READS = [["r", "x", None], ["r", "y", None]]


@pytest.mark.parametrize(
    ("ops", "validity"),
    [
        (WRITES + looks("register", "read", None, [2, 3], [2, 3]), Validity.VALID),
        (WRITES + looks("register", "read", None, [8, 4], [8, 4]), Validity.VALID),
        (WRITES + looks("register", "read", None, [2, 3], [1, 2]), Validity.INVALID),
        (WRITES + looks("register", "read", None, [2, 3], [None, 0]), Validity.INVALID),
        (WRITES + looks("register", "read", None, [2, 3], [7, 3]), Validity.INVALID),
        (ADDS + looks("set", "read", None, [1], [1, 2]), Validity.VALID),
        (ADDS + looks("set", "read", None, [1], [2]), Validity.INVALID),
        (APPENDS + looks("append", "txn", READS, [["r", "x", [1]]]), Validity.VALID),
        (APPENDS + looks("append", "txn", READS, [["r", "x", None]]), Validity.INVALID),
        (APPENDS + looks("append", "txn", READS, [["r", "y", None]]), Validity.VALID),
        (ADDS, Validity.UNKNOWN),
        ([], Validity.UNKNOWN),
    ],
)
def test_acknowledged_writes_are_there_on_every_member(ops: list[Op], validity: Validity) -> None:
    """JEP-12: on each, and what ended unknown may be there or not."""
    verdict = durability.check(ops)
    assert verdict.validity is validity
    assert bool(verdict.findings) == (validity is Validity.INVALID)
    assert bool(verdict.note) == (validity is Validity.UNKNOWN)


def test_a_member_that_did_not_answer_leaves_it_unknown() -> None:
    ops = WRITES + looks("register", "read", None, [2, 3], [2, 3])
    ops[-1].outcome = Outcome.INFO
    verdict = durability.check(ops)
    assert verdict.validity is Validity.UNKNOWN
    assert verdict.note == "not looked at: register on m1"


@given(st.integers(0, 1 << 32))
@settings(max_examples=100, deadline=None)
def test_the_revisions_of_a_right_server_are_accepted(seed: int) -> None:
    assert monotonic.check(serve_registers(Random(seed), 60)).findings == []


BOTH = {"revision went back", "against real time"}
FIRST, LATER = op("set", "add", 1, 10, None, 5), op("lease", "look", None, 20, None, 4)


@pytest.mark.parametrize(
    ("ops", "kinds"),
    [
        ([FIRST, LATER], BOTH),
        ([FIRST, replace(LATER, member="m1")], {"against real time"}),
        ([FIRST, replace(LATER, client=3)], {"against real time"}),
        ([FIRST, replace(LATER, start=14)], set()),
        ([FIRST, replace(LATER, revision=5)], set()),
        (
            [FIRST, replace(LATER, outcome=Outcome.FAIL)],
            {"revision went back", "against real time"},
        ),
        ([FIRST, replace(LATER, revision=0)], set()),
    ],
)
def test_a_revision_never_goes_back(ops: list[Op], kinds: set[str]) -> None:
    """GEN-04: whatever was asked, of whichever workload."""
    verdict = monotonic.check(ops)
    assert {finding.kind for finding in verdict.findings} == kinds
    assert verdict.validity is (Validity.INVALID if kinds else Validity.VALID)


def test_without_any_revision_nothing_is_proven() -> None:
    assert monotonic.check([replace(FIRST, revision=0)]).validity is Validity.UNKNOWN
