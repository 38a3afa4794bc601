"""Sets, sums, leases and locks: what is promised is accepted, what is not is named."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepsen.checkers.bank import MAX_OPEN
from jepsen.checkers.leases import NS_PER_S, check_leases, check_locks
from jepsen.checkers.sets import check_bank, check_set
from jepsen.history import Op, Outcome
from jepsen.verdict import Validity, Verdict

OK, INFO, FAIL = Outcome.OK, Outcome.INFO, Outcome.FAIL


def made(workload: str) -> Callable[..., Op]:
    def op(
        f: str,
        value: Any,
        start: float,
        end: float,
        result: Any = None,
        outcome: Outcome = OK,
        client: int = 0,
        revision: int = 0,
    ) -> Op:
        begin, stop = int(start * NS_PER_S), int(end * NS_PER_S)
        return Op(client, workload, f, "k", value, begin, stop, outcome, result, revision)

    return op


element, bank, lease, lock = made("set"), made("bank"), made("lease"), made("lock")


def judged(verdict: Verdict) -> tuple[Validity, set[str]]:
    return verdict.validity, {finding.kind for finding in verdict.findings}


ADD = element("add", 1, 0, 1)


@pytest.mark.parametrize(
    ("ops", "kinds"),
    [
        ([ADD, element("read", None, 2, 3, [1])], set()),
        ([ADD, element("read", None, 0, 3, [])], set()),
        ([ADD, element("read", None, 2, 3, [])], {"lost write"}),
        ([element("add", 1, 0, 1, outcome=INFO), element("read", None, 2, 3, [])], set()),
        (
            [
                element("add", 1, 0, 1, outcome=INFO),
                element("read", None, 2, 3, [1]),
                element("read", None, 4, 5, []),
            ],
            {"lost write"},
        ),
        (
            [element("add", 1, 0, 1, outcome=FAIL), element("read", None, 2, 3, [1])],
            {"failed write is there"},
        ),
        ([ADD, element("read", None, 2, 3, [1, 9])], {"value out of nowhere"}),
        ([ADD, element("read", None, 2, 3, [1, 1])], {"duplicate element"}),
    ],
)
def test_sets(ops: list[Op], kinds: set[str]) -> None:
    expected = Validity.INVALID if kinds else Validity.VALID
    assert judged(check_set(ops)) == (expected, kinds)


def test_a_bank_with_too_many_open_transfers_is_unknown() -> None:
    ops = [bank("transfer", [0, 1, 1], 2, 3, outcome=INFO) for _ in range(MAX_OPEN + 1)]
    ops.append(bank("transfer", [0, 1, 2], 2, 3, True, revision=3))
    for start, revision in ((0, 2), (9, 20)):  # what was acknowledged is lost
        balances = {"bank/0": 5, "bank/1": 5}
        ops.append(bank("read", None, start, start + 1, balances, revision=revision))
    verdict = check_bank(ops)
    assert verdict.validity is Validity.UNKNOWN
    assert "too many transfers" in verdict.note


@pytest.mark.parametrize(
    ("balances", "kinds"),
    [
        ([{"a": 5, "b": 5}, {"a": 4, "b": 6}], set()),
        ([{"a": 5, "b": 5}, {"a": 4, "b": 5}], {"half a transaction"}),
        ([{"a": 5, "b": 5}, {"a": -1, "b": 11}], {"guard ignored"}),
    ],
)
def test_banks(balances: list[dict[str, int]], kinds: set[str]) -> None:
    ops = [bank("read", None, i, i + 0.5, found) for i, found in enumerate(balances)]
    expected = Validity.INVALID if kinds else Validity.VALID
    assert judged(check_bank(ops)) == (expected, kinds)


def test_a_transfer_that_is_lost_as_a_whole_is_found() -> None:
    """The sum does not tell: each transfer is there or not, in the order of revisions."""
    start = {"bank/0": 5, "bank/1": 5}
    after = {"bank/0": 3, "bank/1": 7}
    move = bank("transfer", [0, 1, 2], 2, 3, True, revision=3)
    unknown = bank("transfer", [0, 1, 2], 2, 3, outcome=INFO)
    touched = bank("transfer", [1, 0, 0], 3.5, 4, True, revision=3)

    def read(balances: dict[str, int], at: float, revision: int) -> Op:
        return bank("read", None, at, at + 0.1, balances, revision=revision)

    first, right, wrong = read(start, 0, 2), read(after, 6, 4), read(start, 6, 4)
    assert judged(check_bank([first, move, right])) == (Validity.VALID, set())
    lost = (Validity.INVALID, {"transfer lost or made up"})
    assert judged(check_bank([first, move, wrong])) == lost
    assert judged(check_bank([first, right])) == lost
    assert judged(check_bank([first, unknown, right])) == (Validity.VALID, set())
    assert judged(check_bank([first, unknown, wrong])) == (Validity.VALID, set())
    # Once only, and not any more after the guard was broken.
    twice = read({"bank/0": 1, "bank/1": 9}, 8, 6)
    assert judged(check_bank([first, unknown, right, twice])) == lost
    between = read(start, 5, 3)
    assert judged(check_bank([first, unknown, touched, between, right])) == lost


@given(st.integers(0, 1 << 32))
@settings(max_examples=100, deadline=None)
def test_a_right_bank_is_accepted_whatever_was_open(seed: int) -> None:
    random = Random(seed)
    balances = {f"bank/{n}": 2000 for n in range(3)}
    written = dict.fromkeys(range(3), 0)
    late: list[tuple[list[int], tuple[int, int]]] = []
    ops, revision = [], 1
    for at in range(60):
        if late and random.random() < 0.3:  # an open one arrives, and its guard decides
            value, guard = late.pop(random.randrange(len(late)))
            if guard == (written[value[0]], written[value[1]]):
                revision = _move(balances, written, value, revision)
        if random.random() < 0.4:
            ops.append(bank("read", None, at, at + 0.5, dict(balances), revision=revision))
            continue
        value = [*random.sample(range(3), 2), random.randint(1, 5)]
        op = bank("transfer", value, at, at + 0.5)
        ops.append(op)
        if random.random() < 0.3:
            op.outcome = INFO
            late.append((value, (written[value[0]], written[value[1]])))
        else:
            revision = _move(balances, written, value, revision)
            op.result, op.revision = True, revision
    assert check_bank(ops).findings == []


def _move(
    balances: dict[str, int], written: dict[int, int], value: list[int], revision: int
) -> int:
    source, target, amount = value
    balances[f"bank/{source}"] -= amount
    balances[f"bank/{target}"] += amount
    written[source] = written[target] = revision + 1
    return revision + 1


GRANT = lease("grant", 5, 0, 1, 5)


@pytest.mark.parametrize(
    ("ops", "kinds"),
    [
        ([lease("look", None, 2, 3, True), lease("look", None, 8, 9, False)], set()),
        ([lease("look", None, 2, 3, False)], {"lease ended early"}),
        ([lease("look", None, 4, 5.5, False)], set()),
        ([lease("revoke", None, 1.5, 2), lease("look", None, 2, 3, False)], set()),
        (
            [lease("revoke", None, 1.5, 2, outcome=FAIL), lease("look", None, 2, 3, False)],
            {"lease ended early"},
        ),
        (
            [lease("renew", 5, 3, 4, 5), lease("look", None, 6, 7, False)],
            {"lease ended early"},
        ),
        (
            [lease("renew", 5, 3, 4, None, outcome=INFO), lease("look", None, 6, 7, False)],
            set(),
        ),
        ([lease("look", None, 6, 7, False), lease("renew", 5, 8, 9, 5)], {"lease revived"}),
        ([lease("renew", 5, 6, 7, 0), lease("look", None, 8, 9, True)], {"lease revived"}),
        ([lease("look", None, 6, 9, False), lease("renew", 5, 8, 9, 5)], set()),
    ],
)
def test_leases(ops: list[Op], kinds: set[str]) -> None:
    found = check_leases([GRANT, *ops, lease("look", None, 50, 51, False, outcome=INFO)])
    assert judged(found) == (Validity.INVALID if kinds else Validity.VALID, kinds)


def test_locks_are_judged_by_their_guard() -> None:
    first = lock("guarded_write", 5, 0, 1, True, revision=6)
    second = lock("guarded_write", 9, 2, 3, True, revision=10)
    late = lock("guarded_write", 5, 4, 5, True, revision=11)
    refused = lock("guarded_write", 5, 4, 5, False, revision=10)
    assert judged(check_locks([first, second, refused])) == (Validity.VALID, set())
    assert judged(check_locks([first, second, late])) == (Validity.INVALID, {"guard ignored"})


def test_overlapping_holders_are_noted_and_not_invalid() -> None:
    ops = [
        lock("acquire", None, 0, 1, ["k/1", 2], client=1),
        lock("acquire", None, 2, 3, ["k/2", 4], client=2),
        lock("release", None, 9, 10, client=1),
        lock("release", None, 9, 10, client=2),
        lock("guarded_write", 4, 4, 5, True, client=2, revision=5),
    ]
    verdict = check_locks(ops)
    assert verdict.validity is Validity.VALID
    assert "1 times two clients" in verdict.note


@pytest.mark.parametrize("check", [check_set, check_bank, check_leases, check_locks])
def test_a_history_that_shows_nothing_is_unknown(check: Callable[[list[Op]], Verdict]) -> None:
    verdict = check([])
    assert verdict.validity is Validity.UNKNOWN
    assert verdict.note
