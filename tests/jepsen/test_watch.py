"""Watchers that see everything once and in order are accepted; each way to miss that is named."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepsen.checkers import watch
from jepsen.history import Op, Outcome
from jepsen.verdict import Validity

Responses = list[list[Any]]


def serve(random: Random, writes: int, watchers: int = 3) -> list[Op]:
    """Writers, and watchers that see their prefix from their start on, in responses of 1 to 3
    revisions, with progress now and then."""
    ops: list[Op] = []
    state: dict[str, tuple[str, int, int]] = {}
    events: list[list[Any]] = []
    for number in range(writes):
        revision = number + 2
        key = random.choice(("a/1", "a/2", "b/1"))
        old = state.get(key)
        if old is not None and random.random() < 0.3:
            events.append([revision, "DELETE", key, None, 0, 0, old[0]])
            del state[key]
            f, value = "delete", None
        else:
            value, f = f"v{revision}", "put"
            version, created = (old[1] + 1, old[2]) if old else (1, revision)
            state[key] = (value, version, created)
            previous = old[0] if old else None
            events.append([revision, "PUT", key, value, version, created, previous])
        outcome = Outcome.OK if random.random() < 0.9 else Outcome.INFO
        told = revision if outcome is Outcome.OK else 0
        start = revision * 10
        ops.append(Op(0, "watch", f, key, value, start, start + 5, outcome, None, told))
    for number in range(watchers):
        start = random.randint(1, writes)
        prefix = random.choice(("", "a/", "b/1"))
        wanted = [e for e in events if e[0] >= start and e[2].startswith(prefix)]
        result: Responses = []
        while wanted:
            count = random.randint(1, 3)
            part, wanted = wanted[:count], wanted[count:]
            result.append([part[-1][0], part])
            if random.random() < 0.3:
                result.append([part[-1][0], []])
        end = writes * 10 + 100
        ops.append(
            Op(number + 1, "watch", "watch", prefix, [start], 0, end, Outcome.INFO, result, 0)
        )
    return ops


@given(st.integers(0, 1 << 32))
@settings(max_examples=200, deadline=None)
def test_correct_watches_are_accepted(seed: int) -> None:
    assert watch.check(serve(Random(seed), 30)).findings == []


def swap(responses: Responses) -> None:
    responses[3], responses[4] = responses[4], responses[3]


def split(responses: Responses) -> None:
    first = responses[2][1][0]
    responses.insert(3, [responses[2][0], [[first[0], "PUT", "a/z", "x", 1, first[0], None]]])


MUTATIONS: dict[str, tuple[Callable[[Responses], None], str]] = {
    "lost": (lambda r: r.pop(2), "lost event"),
    "twice": (lambda r: r.insert(3, copy.deepcopy(r[2])), "duplicate event"),
    "swapped": (swap, "events out of order"),
    "early progress": (lambda r: r.insert(2, [r[2][0], []]), "event after progress"),
    "progress back": (lambda r: r.extend([[500, []], [400, []]]), "progress went back"),
    "split": (split, "revision split"),
    "other value": (lambda r: r[2][1][0].__setitem__(3, "?"), "watchers disagree"),
    "other previous": (lambda r: r[5][1][0].__setitem__(6, "?"), "wrong prev_kv"),
    "no previous": (lambda r: r[5][1][0].__setitem__(6, None), "prev_kv missing"),
    "other key": (lambda r: r[5][1][0].__setitem__(2, "b"), "event of another range"),
    "too old": (lambda r: r.insert(0, [1, [[1, "PUT", "a", "v0", 1, 1, None]]]),
                "event before the start"),
    "made up": (lambda r: r.append([99, [[99, "PUT", "a", "?", 9, 2, "v9"]]]),
                "event out of nowhere"),
    "failed": (lambda r: r.append([99, [[99, "PUT", "a", "no", 9, 2, "v9"]]]),
               "failed write is there"),
    "deleted": (lambda r: r.append([99, [[99, "DELETE", "a", None, 0, 0, "v9"]]]),
                "event out of nowhere"),
    "version": (lambda r: r[5][1][0].__setitem__(4, 9), "wrong version"),
    "early": (lambda r: r[5].__setitem__(0, 3), "event from the future"),
    "create": (lambda r: r[5][1][0].__setitem__(5, r[5][1][0][0]), "wrong is_create"),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTATIONS)
def test_each_fault_is_named(name: str) -> None:
    ops = []
    for number in range(8):
        revision = number + 2
        event = [revision, "PUT", "a", f"v{revision}", number + 1, 2, f"v{revision - 1}"]
        if number == 0:
            event[6] = None
        ops.append(
            Op(0, "watch", "put", "a", event[3], number, number + 1, Outcome.OK, None, revision)
        )
        ops.append(event)  # type: ignore[arg-type]
    events = [[e[0], [e]] for e in ops[1::2]]  # type: ignore[index]
    writers = ops[::2]
    writers.append(Op(1, "watch", "put", "a", "no", 50, 51, Outcome.FAIL))
    mutate, kind = MUTATIONS[name]
    fine = [*writers, _watcher(copy.deepcopy(events))]
    assert watch.check(fine, compactions=[]).findings == []
    broken = copy.deepcopy(events)
    mutate(broken)
    verdict = watch.check([*writers, _watcher(broken)], compactions=[])
    assert kind in {finding.kind for finding in verdict.findings}, verdict.findings


def _watcher(responses: Responses) -> Op:
    return Op(9, "watch", "watch", "a", [2], 0, 100, Outcome.INFO, responses)


def test_without_watchers_nothing_is_proven() -> None:
    assert watch.check([]).validity is Validity.UNKNOWN


def test_a_previous_value_may_be_missing_where_it_was_compacted() -> None:
    writers = [
        Op(0, "watch", "put", "a", f"v{r}", r, r + 1, Outcome.OK, None, r) for r in (2, 3, 4)
    ]
    events = [[r, "PUT", "a", f"v{r}", r - 1, 2, None] for r in (2, 3, 4)]
    ops = [*writers, _watcher([[e[0], [e]] for e in events])]
    assert watch.check(ops, compactions=[4]).findings == []
    assert watch.check(ops).findings == []
    (finding,) = watch.check(ops, compactions=[3]).findings
    assert finding.kind == "prev_kv missing"


def test_a_watcher_that_never_gets_the_last_write_is_named() -> None:
    last = Op(0, "watch", "put", "a", "x", 0, 1, Outcome.OK, None, 2)
    there = _watcher([[2, [[2, "PUT", "a", "x", 1, 2, None]]]])
    silent = replace(_watcher([]), client=8)
    elsewhere = replace(silent, client=7, key="b")
    assert watch.check_caught_up([there, elsewhere], last) == []
    (finding,) = watch.check_caught_up([there, silent], last)
    assert finding.ops == [last, silent]


def test_a_resumption_from_where_it_was_before_is_named() -> None:
    first = _watcher([[2, [[2, "PUT", "a", "x", 1, 2, None]]]])
    again = replace(first, start=200, end=300)
    put = Op(0, "watch", "put", "a", "x", 0, 1, Outcome.OK, None, 2)
    (finding,) = watch.check([put, first, again]).findings
    assert finding.kind == "resumed too early"


@pytest.mark.parametrize(("compactions", "found"), [([], 1), ([50], 1), ([95], 0)])
def test_only_a_compaction_lets_a_watcher_skip_history(compactions: list[int], found: int) -> None:
    def stream(number: int, start: int, shown: Responses) -> Op:
        begin = 100 * number
        return Op(7, "watch", "watch", "", [start], begin, begin + 50, Outcome.INFO, shown)

    first = stream(1, 1, [[2, [[2, "PUT", "a", "v", 1, 2, None]]], [60, []]])
    resumed = stream(2, 61, [[70, []]])
    jumped = stream(3, 95, [])
    findings = watch.check_jumps([first, resumed, jumped], compactions)
    assert [finding.kind for finding in findings] == ["history skipped"] * found
