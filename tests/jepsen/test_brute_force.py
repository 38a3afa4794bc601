"""Checkers agree with the definitions, tried out on small random histories."""

from __future__ import annotations

import copy
from itertools import groupby
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from jepsen.checkers import append, revisions, watch
from jepsen.checkers.leases import NS_PER_S, check_leases, check_locks
from jepsen.checkers.sets import check_set
from jepsen.history import Op, Outcome
from jepsen.verdict import Validity
from tests.jepsen.brute_force import append_model, claims_hold, explained, set_model
from tests.jepsen.served import serve_registers

OUTCOMES = st.sampled_from((Outcome.OK, Outcome.OK, Outcome.INFO, Outcome.FAIL))


def times(draw: st.DrawFn) -> tuple[int, int]:
    start = draw(st.integers(0, 12))
    return start, start + draw(st.integers(0, 6))


@st.composite
def sets(draw: st.DrawFn) -> list[Op]:
    ops = []
    count = draw(st.integers(1, 4))
    for element in range(count):
        outcome = draw(OUTCOMES)
        ops.append(Op(0, "set", "add", "", element, *times(draw), outcome))
    for _ in range(draw(st.integers(1, 4))):
        found = draw(st.lists(st.integers(0, count - 1), unique=True))
        ops.append(Op(1, "set", "read", "", None, *times(draw), Outcome.OK, found))
    return ops


@given(sets())
@settings(max_examples=300, deadline=None)
def test_sets(ops: list[Op]) -> None:
    right = explained(ops, set_model, frozenset())
    verdict = check_set(ops)
    assert (verdict.validity is Validity.VALID) == right, verdict.findings


@st.composite
def transactions(draw: st.DrawFn) -> list[Op]:
    """Reads are drawn from the elements there are, mostly as prefixes of one order."""
    count = draw(st.integers(1, 5))
    plans = []
    elements: dict[str, list[int]] = {"x": [], "y": []}
    for number in range(count):
        steps: list[list[Any]] = []
        for step in range(draw(st.integers(1, 3))):
            key = draw(st.sampled_from("xy"))
            if draw(st.booleans()):
                elements[key].append(10 * number + step)
                steps.append(["append", key, 10 * number + step])
            else:
                steps.append(["r", key, None])
        plans.append((steps, *times(draw), draw(OUTCOMES)))
    orders = {key: draw(st.permutations(listed)) for key, listed in elements.items()}
    ops = []
    for steps, start, end, outcome in plans:
        result = copy.deepcopy(steps)
        for step in result:
            if step[0] == "r":
                order = orders[step[1]]
                step[2] = list(order[: draw(st.integers(0, len(order)))])
        told = result if outcome is Outcome.OK else None
        ops.append(Op(0, "append", "txn", "", steps, start, end, outcome, told))
    return ops


@given(transactions())
@settings(max_examples=300, deadline=None)
def test_append_cycles(ops: list[Op]) -> None:
    right = explained(ops, append_model, {})
    verdict = append.check(ops)
    assert (verdict.validity is Validity.VALID) == right, verdict.findings


@st.composite
def claims(draw: st.DrawFn) -> list[Op]:
    """Registers of a right server, and up to two answers that are not."""
    ops = serve_registers(Random(draw(st.integers(0, 1 << 32))), 7, clients=3, keys=2)
    done = [op for op in ops if op.outcome is Outcome.OK]
    for _ in range(draw(st.integers(0, 2))):
        if not done:
            break
        op, other = draw(st.sampled_from(done)), draw(st.sampled_from(done))
        if op.f == "read" and other.f == "read" and draw(st.booleans()):
            op.result = other.result
        elif op.f == "cas" and draw(st.booleans()):
            op.result = not op.result
        else:
            op.revision = draw(st.integers(1, 8))
    return ops


@given(claims())
@settings(max_examples=300, deadline=None)
def test_revisions(ops: list[Op]) -> None:
    """No false alarm; what it misses needs an open write that nobody saw."""
    right = claims_hold(ops)
    verdict = revisions.check(ops)
    if right or not any(op.outcome is Outcome.INFO and op.f != "read" for op in ops):
        assert (verdict.validity is Validity.VALID) == right, verdict.findings


@st.composite
def leases(draw: st.DrawFn) -> list[Op]:
    """What one client does with one lease, one after the other, in seconds."""
    ops, now = [], 0
    for _ in range(draw(st.integers(1, 6))):
        f = draw(st.sampled_from(("renew", "look", "look", "revoke")))
        start = now + draw(st.integers(1, 4))
        end = now = start + draw(st.integers(1, 4))
        result = {"renew": draw(st.sampled_from((0, 4, 4))), "look": draw(st.booleans())}.get(f)
        outcome = Outcome.OK if f == "look" else draw(OUTCOMES)
        ops.append(Op(0, "lease", f, "7", 4, start * NS_PER_S, end * NS_PER_S, outcome, result))
    return [
        Op(0, "lease", "grant", "7", 4, 0, NS_PER_S // 2, Outcome.OK, 4),
        *ops,
        Op(0, "lease", "look", "8", None, 0, 1, Outcome.OK, True),
    ]


def may_have_ended(end: float, ops: list[Op]) -> bool:
    """Whether one lease that ended at a moment (in seconds) explains all answers.

    It ends by a revocation, or when the time of each grant and renewal is over.
    """
    revoked = False
    for op in ops:
        start, stop = op.start / NS_PER_S, op.end / NS_PER_S
        if op.f == "revoke" and op.outcome is not Outcome.FAIL and start <= end:
            revoked = revoked or op.outcome is Outcome.INFO or end <= stop
        if op.f == "revoke" and op.outcome is Outcome.OK and end > stop:
            return False
    for op in ops:
        start, stop = op.start / NS_PER_S, op.end / NS_PER_S
        if op.outcome is not Outcome.OK or op.f == "revoke":
            continue
        alive = op.result > 0 if op.f in ("grant", "renew") else op.result
        if alive and start >= end:
            return False
        if not alive and stop < end:
            return False
        if op.f != "look" and alive and not revoked and start + op.result > end:
            return False
    return True


@given(leases())
@settings(max_examples=150, deadline=None)
def test_leases(ops: list[Op]) -> None:
    own = [op for op in ops if op.key == "7"]
    right = any(may_have_ended(at / 4, own) for at in range(4 * 80))
    verdict = check_leases(ops)
    assert (verdict.validity is Validity.VALID) == right, verdict.findings


@given(st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_locks(writes: list[tuple[int, bool]]) -> None:
    """Of two guarded writes that were let through the later one is of no earlier holder."""
    ops = [
        Op(0, "lock", "guarded_write", "l", held, at, at + 1, Outcome.OK, through, at)
        for at, (held, through) in enumerate(writes)
    ]
    through = [held for held, done in writes if done]
    verdict = check_locks(ops)
    if through:
        assert (verdict.validity is Validity.VALID) == (through == sorted(through))
    else:
        assert verdict.validity is Validity.UNKNOWN


WRITES = 7


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[Op], list[list[Any]], Op]:
    """Acknowledged writes, the events that they are, and a stream of them with a few faults."""
    ops, events = [], []
    state: dict[str, list[Any]] = {}
    for revision in range(2, 2 + WRITES):
        key = draw(st.sampled_from(("a", "b")))
        old = state.get(key)
        previous = old[3] if old else None
        if old and draw(st.booleans()):
            del state[key]
            events.append([revision, "DELETE", key, None, 0, 0, previous])
            f, value = "delete", None
        else:
            version, created = (old[4] + 1, old[5]) if old else (1, revision)
            value, f = f"v{revision}", "put"
            state[key] = [revision, "PUT", key, value, version, created, previous]
            events.append(state[key])
        at = 10 * revision
        ops.append(Op(0, "watch", f, key, value, at, at + 5, Outcome.OK, None, revision))
    start = draw(st.integers(1, WRITES))
    sent = [[event[0], [event]] for event in copy.deepcopy(events) if event[0] >= start]
    for _ in range(draw(st.integers(0, 2))):
        if not sent:
            break
        at = draw(st.integers(0, len(sent) - 1))
        fault = draw(st.sampled_from(("drop", "twice", "swap", "progress", "merge", "value")))
        if fault == "drop":
            del sent[at]
        elif fault == "twice":
            sent.insert(draw(st.integers(0, len(sent))), copy.deepcopy(sent[at]))
        elif fault == "swap":
            sent.insert(0, sent.pop(at))
        elif fault == "progress":
            sent.insert(at + 1, [draw(st.integers(1, WRITES + 2)), []])
        elif fault == "merge":
            sent[at:] = [[WRITES + 2, [event for _, events in sent[at:] for event in events]]]
        elif sent[at][1]:
            sent[at][1][0][6] = "other"
    stream = Op(1, "watch", "watch", "", [start], 500, 900, Outcome.INFO, sent)
    return ops, events, stream


def served_right(events: list[list[Any]], stream: Op) -> bool:
    """The definition: the events from the start on, whole, up to where the stream came, and
    progress only where all before it was sent and nothing before it comes."""
    start, sent = stream.value[0], 0
    wanted = [event for event in events if event[0] >= start]
    told = 0
    for header, part in stream.result:
        if part:
            if part != wanted[sent : sent + len(part)] or part[0][0] <= told:
                return False
            sent += len(part)
            if part[-1][0] > header:
                return False
        else:
            behind = [event for event in wanted[sent:] if event[0] <= header]
            if behind or header < told:
                return False
            told = max(told, header)
    shown = [[event[0] for event in part] for _, part in stream.result if part]
    return all(len(list(same)) == 1 for _, same in groupby(r[-1] for r in shown))


@given(streams())
@settings(max_examples=300, deadline=None)
def test_watches(made: tuple[list[Op], list[list[Any]], Op]) -> None:
    ops, events, stream = made
    verdict = watch.check([*ops, stream], compactions=[])
    assert (verdict.validity is Validity.VALID) == served_right(events, stream), verdict.findings
