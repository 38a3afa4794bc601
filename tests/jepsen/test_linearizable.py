"""The search agrees with brute force, and finds the classic faults."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepsen import history
from jepsen.checkers import linearizable
from jepsen.history import Op, Outcome
from jepsen.verdict import Validity
from tests.jepsen.served import serve_registers


def op(
    f: str,
    value: Any,
    start: int,
    end: int,
    result: Any = None,
    outcome: Outcome = Outcome.OK,
    key: str = "k",
) -> Op:
    return Op(0, "register", f, key, value, start, end, outcome, result)


def read(seen: Any, start: int, end: int) -> Op:
    return op("read", None, start, end, [seen, 1])


def write(value: Any, start: int, end: int, outcome: Outcome = Outcome.OK) -> Op:
    return op("write", value, start, end, outcome=outcome)


def cas(expected: Any, new: Any, start: int, end: int, result: bool | None = True) -> Op:
    outcome = Outcome.INFO if result is None else Outcome.OK
    return op("cas", [expected, new], start, end, result, outcome)


def explained(order: tuple[Op, ...]) -> bool:
    """Whether a register that takes the operations in this order answers as they were answered."""
    state = None
    for one in order:
        if one.f == "read":
            if one.result[0] != state:
                return False
        elif one.f == "write":
            state = one.value
        else:
            expected, new = one.value
            if one.outcome is Outcome.INFO:
                state = new if state == expected else state
            elif (state == expected) != one.result:
                return False
            elif one.result:
                state = new
    return True


def brute_force(ops: list[Op]) -> bool:
    """Try every subset of the open operations in every order that respects real time."""
    certain = [o for o in ops if o.outcome is Outcome.OK]
    open_ = [o for o in ops if o.outcome is Outcome.INFO and o.f != "read"]
    for mask in range(1 << len(open_)):
        chosen = certain + [o for i, o in enumerate(open_) if mask >> i & 1]
        for order in permutations(chosen):
            in_time = all(
                not (later.outcome is Outcome.OK and later.end < earlier.start)
                for i, earlier in enumerate(order)
                for later in order[i + 1 :]
            )
            if in_time and explained(order):
                return True
    return False


values = st.integers(1, 3)
outcomes = st.sampled_from((Outcome.OK, Outcome.OK, Outcome.INFO, Outcome.FAIL))


@st.composite
def histories(draw: st.DrawFn) -> list[Op]:
    ops = []
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, 12))
        end = start + draw(st.integers(0, 6))
        f = draw(st.sampled_from(("read", "write", "write", "cas")))
        outcome = draw(outcomes)
        if f == "read":
            ops.append(op(f, None, start, end, [draw(st.none() | values), 1], outcome))
        elif f == "write":
            ops.append(op(f, draw(values), start, end, None, outcome))
        else:
            result = draw(st.booleans()) if outcome is Outcome.OK else None
            pair = [draw(st.none() | values), draw(values)]
            ops.append(op(f, pair, start, end, result, outcome))
    return ops


@given(histories())
@settings(max_examples=600, deadline=None)
def test_it_agrees_with_brute_force(ops: list[Op]) -> None:
    expected = Validity.VALID if brute_force(ops) else Validity.INVALID
    assert linearizable.check(ops).validity is expected


@st.composite
def histories_with_open_ends(draw: st.DrawFn) -> list[Op]:
    """Values that one operation alone writes, and every other outcome unknown."""
    ops = []
    for fresh in range(10, 10 + draw(st.integers(2, 7))):
        start = draw(st.integers(0, 12))
        end = start + draw(st.integers(0, 6))
        known = st.none() | st.integers(10, 15)
        f = draw(st.sampled_from(("read", "write", "cas", "cas")))
        outcome = draw(st.sampled_from((Outcome.OK, Outcome.INFO)))
        if f == "read":
            ops.append(read(draw(known), start, end))
        elif f == "write":
            ops.append(write(fresh, start, end, outcome))
        else:
            result = draw(st.booleans()) if outcome is Outcome.OK else None
            ops.append(cas(draw(known), fresh, start, end, result))
    return ops


@given(histories_with_open_ends())
@settings(max_examples=250, deadline=None)
def test_it_agrees_with_brute_force_where_much_is_open(ops: list[Op]) -> None:
    expected = Validity.VALID if brute_force(ops) else Validity.INVALID
    assert linearizable.check(ops).validity is expected


@pytest.mark.parametrize(
    ("ops", "validity"),
    [
        ([], Validity.VALID),
        ([write(1, 0, 1), read(1, 2, 3)], Validity.VALID),
        ([write(1, 0, 1), read(None, 2, 3)], Validity.INVALID),
        ([write(1, 0, 5), read(1, 1, 2), read(None, 3, 4)], Validity.INVALID),
        ([write(1, 0, 5), read(None, 1, 2), read(1, 3, 4)], Validity.VALID),
        ([write(1, 0, 1), write(2, 2, 3, Outcome.INFO), read(2, 50, 51)], Validity.VALID),
        ([write(1, 0, 1), write(2, 2, 3, Outcome.FAIL), read(2, 50, 51)], Validity.INVALID),
        ([write(1, 0, 1, Outcome.INFO), read(1, 2, 3), read(None, 4, 5)], Validity.INVALID),
        ([write(1, 0, 1), cas(1, 2, 2, 3), cas(1, 3, 2, 4)], Validity.INVALID),
        ([write(1, 0, 1), cas(1, 2, 2, 3), cas(1, 3, 2, 4, False)], Validity.VALID),
        ([write(1, 0, 1), cas(1, 2, 2, 3, None), read(1, 4, 5), read(2, 6, 7)], Validity.VALID),
    ],
)
def test_the_classics(ops: list[Op], validity: Validity) -> None:
    assert linearizable.check(ops).validity is validity


def test_keys_are_judged_one_by_one() -> None:
    good, bad = (
        [op("write", 1, 0, 1, key=key), op("read", None, 2, 3, [seen, 1], key=key)]
        for key, seen in (("a", 1), ("b", 7))
    )
    verdict = linearizable.check(good + bad)
    assert verdict.validity is Validity.INVALID
    assert [finding.ops[-1].key for finding in verdict.findings] == ["b"]
    assert verdict.checked == 4


def test_the_counter_example_is_small() -> None:
    ops = [write(i, 10 * i, 10 * i + 5) for i in range(1, 200)]
    ops += [read(i, 10 * i + 6, 10 * i + 8) for i in range(1, 200)]
    ops.append(read(3, 100, 101))
    (finding,) = linearizable.check(ops).findings
    assert len(finding.ops) <= 4
    assert any(o.result == [3, 1] for o in finding.ops)


def test_what_is_spent_on_small_counter_examples_is_bounded_and_the_verdict_is_not() -> None:
    ops = [write(i, 10 * i, 10 * i + 5) for i in range(1, 200)] + [read(3, 3000, 3001)]
    for budget in (0, 50):
        verdict = linearizable.check(ops, shrink_budget=budget)
        assert verdict.validity is Validity.INVALID
        assert len(verdict.findings[0].ops) > 4
    assert len(linearizable.check(ops).findings[0].ops) <= 4


@given(st.integers(0, 1 << 32))
@settings(max_examples=60, deadline=None)
def test_the_counter_example_is_minimal(seed: int) -> None:
    """It shows the fault by itself, and without any of its reads, or of the writes that nobody in
    it saw, it would not. (Without a write that somebody saw, only its absence would be shown.)"""
    random = Random(seed)
    ops = serve_registers(random, 60, keys=1)
    reads = [one for one in ops if one.f == "read" and one.outcome is Outcome.OK]
    random.choice(reads).result = random.choice(reads).result
    for finding in linearizable.check(ops).findings:
        few = finding.ops
        assert linearizable.check(few).validity is Validity.INVALID
        for one in few:
            rest = [other for other in few if other is not one]
            if one.f == "read" or not seen(one, rest):
                assert linearizable.check(rest).validity is Validity.VALID, (one, few)


def seen(one: Op, others: list[Op]) -> bool:
    """Whether somebody was answered that he saw or compared what it wrote."""
    value = one.value[1] if one.f == "cas" else one.value
    return any(
        (other.f == "read" and other.result[0] == value)
        or (other.f == "cas" and other.value[0] == value)
        for other in others
        if other.outcome is Outcome.OK
    )


def test_a_spent_budget_is_unknown_not_valid() -> None:
    ops = [write(i, 0, 100) for i in range(12)] + [read(99, 50, 101)]
    verdict = linearizable.check(ops, budget=1000)
    assert verdict.validity is Validity.UNKNOWN
    assert "1000" in verdict.note


def test_open_operations_of_a_long_history_cost_little() -> None:
    """One in ten is open, on keys with 2,000 operations each; what 50,000 take: python -m
    tests.bench.checkers."""
    ops = serve_registers(Random(7), 6_000, clients=8, keys=3)
    assert sum(one.outcome is Outcome.INFO for one in ops) > 500
    assert linearizable.check(ops, budget=100_000).validity is Validity.VALID


def test_many_open_writes_that_nobody_saw_cost_nothing() -> None:
    ops = [write(1, 0, 1)]
    ops += [write(1000 + i, 2 + i, 3 + i, Outcome.INFO) for i in range(300)]
    ops += [read(1, 400, 401)]
    assert linearizable.check(ops, budget=10_000).validity is Validity.VALID


RECORDED = sorted((Path(__file__).parent / "recorded").glob("*.jsonl"))


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_histories_of_etcd_are_judged_as_recorded(path: Path) -> None:
    verdict = linearizable.check(record for record in history.read(path) if isinstance(record, Op))
    assert verdict.checked > 50
    assert verdict.validity.value == path.stem.rpartition("-")[2]
