"""Caches of objects that were listed and watched: right ones are accepted, each fault is named."""

from __future__ import annotations

import copy
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepsen.checkers import kube
from jepsen.history import Op, Outcome
from jepsen.verdict import Validity

PODS = "kube/pods/"


def op(
    f: str,
    key: str,
    value: Any,
    time: int,
    result: Any = None,
    revision: int = 0,
    outcome: Outcome = Outcome.OK,
    client: int = 0,
) -> Op:
    return Op(client, "kube", f, key, value, time, time + 5, outcome, result, revision)


class Server:
    """Serves one request after the other, right; times are ten times the revision."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.revision = 1
        self.ops: list[Op] = []
        self.objects: dict[str, list[Any]] = {}
        """Key -> value, mod_revision, version, create_revision."""
        self.events: list[list[Any]] = []
        self.states: dict[int, dict[str, list[Any]]] = {1: {}}

    def write(self) -> None:
        """One write, guarded right or wrong, whose answer may be lost; or an expiry."""
        random = self.random
        leased = random.random() < 0.2
        key = f"{kube.LEASED if leased else PODS}{random.randrange(4)}"
        there = self.objects.get(key)
        if leased and there is not None:
            self.change(key, None)  # its lease ran out
            return
        guard = there[1] if there else 0
        if random.random() < 0.3:
            guard = random.choice((0, self.revision))
        f = "create" if not guard else random.choice(("update", "update", "delete"))
        fresh = f"v{len(self.ops)}"
        value: Any = {"create": fresh, "update": [guard, fresh], "delete": [guard]}[f]
        told = op(f, key, value, 10 * self.revision + len(self.ops) % 5)
        lost = random.random() < 0.1
        if guard == (there[1] if there else 0):
            if not lost or random.random() < 0.5:
                self.change(key, None if f == "delete" else fresh)
            told.result = [True]
        else:
            told.result = [False, *((there[1], there[0]) if there else (0, None))]
        told.revision = self.revision
        if lost:
            told.outcome, told.result, told.revision = Outcome.INFO, None, 0
        told.end = 10 * self.revision + 9
        self.ops.append(told)

    def change(self, key: str, value: str | None) -> None:
        self.revision += 1
        old = self.objects.get(key)
        previous = old[0] if old else None
        if value is None:
            del self.objects[key]
            self.events.append([self.revision, "DELETE", key, None, 0, 0, previous])
        else:
            version, created = (old[2] + 1, old[3]) if old else (1, self.revision)
            self.objects[key] = [value, self.revision, version, created]
            self.events.append([self.revision, "PUT", key, value, version, created, previous])
        self.states[self.revision] = copy.deepcopy(self.objects)

    def cache(self, client: int, prefix: str) -> None:
        """A cache's life, after all writes: lists at 1 to 3 revisions and streams behind them."""
        cuts = sorted(self.random.sample(range(1, self.revision + 1), 3))
        time = 10 * self.revision + 100
        for position, (start, end) in enumerate(zip(cuts, [*cuts[1:], self.revision], strict=True)):
            if position == 0 or self.random.random() < 0.4:
                objects = [
                    [key, *kept] for key, kept in sorted(self.states[start].items())
                    if key.startswith(prefix)
                ]  # fmt: skip
                # Listed when that revision was the newest.
                listed = op("list", prefix, [10], 10 * start + 6, objects, start, client=client)
                self.ops.append(listed)
                listed.end = listed.start + 1
            events = [e for e in self.events if start < e[0] <= end and e[2].startswith(prefix)]
            responses = [[event[0], [event]] for event in events] + [[end, []]]
            time = 10 * start + 8
            stream = op("watch_cache", prefix, [start + 1], time, responses, 0, Outcome.INFO)
            stream.client = client
            self.ops.append(stream)


def serve(seed: int, writes: int = 60) -> list[Op]:
    server = Server(Random(seed))
    while server.revision < writes:
        server.write()
    for client, prefix in enumerate((PODS, kube.LEASED, "kube/"), 100):
        server.cache(client, prefix)
    return server.ops


@given(st.integers(0, 1 << 32))
@settings(max_examples=150, deadline=None)
def test_right_caches_are_accepted(seed: int) -> None:
    assert kube.check(serve(seed), compactions=[]).findings == []


def story() -> list[Op]:
    """Two objects, written, listed, watched, in a history short enough to break by hand."""
    a, b = PODS + "a", PODS + "b"
    events = [
        [4, "PUT", a, "a2", 2, 2, "a1"],
        [5, "DELETE", b, None, 0, 0, "b1"],
        [6, "PUT", b, "b2", 1, 6, None],
    ]
    return [
        op("create", a, "a1", 10, [True], 2),
        op("create", b, "b1", 20, [True], 3),
        op("list", PODS, [10], 30, [[a, "a1", 2, 1, 2], [b, "b1", 3, 1, 3]], 3, client=100),
        op("update", a, [2, "a2"], 40, [True], 4),
        op("delete", b, [3], 50, [True], 5),
        op("update", a, [2, "a3"], 56, [False, 4, "a2"], 5),
        op("create", b, "b2", 70, [True], 6),
        op("watch_cache", PODS, [4], 80, [[e[0], [e]] for e in events], 0, Outcome.INFO,
           client=100),
        op("list", PODS, [10], 90, [[a, "a2", 4, 2, 2], [b, "b2", 6, 1, 6]], 6, client=100),
    ]  # fmt: skip


LIST, REFUSED, STREAM, LAST_LIST = 2, 5, 7, 8

BROKEN: dict[str, tuple[Callable[[list[Op]], Any], str]] = {
    "an object missing": (lambda o: o[LIST].result.pop(), "wrong list"),
    "an old object": (lambda o: o[LAST_LIST].result[0].__setitem__(slice(1, 3), ["a1", 2]),
                      "wrong list"),
    "a deleted object": (lambda o: o[LAST_LIST].result[1].__setitem__(slice(1, 3), ["b1", 3]),
                         "wrong list"),
    "order": (lambda o: o[LIST].result.reverse(), "list out of order"),
    "another's object": (lambda o: o[LIST].result.append(["x", "a1", 2, 1, 2]),
                         "object of another range"),
    "a list back": (lambda o: setattr(o[LAST_LIST], "revision", 4), "went back"),
    "a lost event": (lambda o: o[STREAM].result.pop(1), "lost event"),
    "two events swapped": (lambda o: o[STREAM].result.reverse(), "events out of order"),
    "a gap behind a cut": (lambda o: setattr(o[STREAM], "value", [5]), "resumed elsewhere"),
    "no previous": (lambda o: o[STREAM].result[0][1][0].__setitem__(6, None), "prev_kv missing"),
    "guard": (lambda o: setattr(o[3], "value", [1, "a2"]), "guard ignored"),
    "refusal": (lambda o: setattr(o[REFUSED], "value", [4, "a3"]), "guard ignored"),
    "a stale answer": (lambda o: setattr(o[REFUSED], "result", [False, 2, "a1"]), "stale read"),
    "a wrong value": (lambda o: setattr(o[REFUSED], "result", [False, 4, "zz"]),
                      "watchers disagree"),
    "time": (lambda o: setattr(o[REFUSED], "revision", 4), "against real time"),
    "silent": (lambda o: o.append(op("create", PODS + kube.LAST, "", 99, [True], 7)),
               "cache fell silent"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_each_fault_is_named(name: str) -> None:
    assert kube.check(story(), compactions=[]).findings == []
    ops = story()
    mutate, kind = BROKEN[name]
    mutate(ops)
    verdict = kube.check(ops, compactions=[])
    assert verdict.validity is Validity.INVALID
    assert kind in {finding.kind for finding in verdict.findings}, verdict.findings


def test_a_cache_that_misses_a_deletion_differs_from_the_state() -> None:
    ops = story()[:LAST_LIST]
    ops[STREAM].result = [[5, []]]
    kinds = {finding.kind for finding in kube.check(ops).findings}
    assert {"lost event", "wrong cache"} <= kinds


def test_objects_of_leases_may_go_by_themselves_and_others_may_not() -> None:
    def expired(folder: str) -> list[Op]:
        key = folder + "x"
        return [
            op("create", key, "v", 10, [True], 2),
            op("list", folder, [10], 20, [[key, "v", 2, 1, 2]], 2, client=100),
            op("watch_cache", folder, [3], 30, [[3, [[3, "DELETE", key, None, 0, 0, "v"]]]], 0,
               Outcome.INFO, client=100),
        ]  # fmt: skip

    assert kube.check(expired(kube.LEASED)).findings == []
    (finding,) = kube.check(expired(PODS)).findings
    assert finding.kind == "event out of nowhere"


def test_without_caches_nothing_is_proven() -> None:
    assert kube.check(story()[:2]).validity is Validity.UNKNOWN
