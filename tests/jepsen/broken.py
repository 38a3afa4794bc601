"""Long histories of servers that break their promises, made up: what a check must end on in time.

One operation in ten ends unknown. Each of `BROKEN` makes a history of about so many operations;
those of one workload differ in how it is broken: often and a little, or once and far back, which
ties everything in between together.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final

from jepsen.checkers.leases import NS_PER_S
from jepsen.history import Op, Outcome
from tests.jepsen.served import serve_registers

CLIENTS: Final = 16
BROKEN_SHARE: Final = 0.02
KEYS, ELEMENTS = 6, 360
"""Of lists: so many at a time, which have so many elements together."""
ACCOUNTS: Final = 5


def _times(random: Random, count: int) -> list[tuple[float, int, int, int]]:
    """(moment of effect, start, end, client), by the moment."""
    free = [0] * CLIENTS
    made = []
    for number in range(count):
        client = number % CLIENTS
        start = free[client] + random.randint(1, 50)
        end = free[client] = start + random.randint(5, 100)
        made.append((random.uniform(start, end), start, end, client))
    return sorted(made)


def _outcome(random: Random) -> Outcome:
    return Outcome.INFO if random.random() < 0.1 else Outcome.OK


def registers_stale_often(count: int) -> list[Op]:
    random = Random(1)
    ops = serve_registers(random, count, clients=10, keys=max(2, count // 2000))
    for position, op in enumerate(ops):
        if op.f == "read" and op.outcome is Outcome.OK and random.random() < BROKEN_SHARE:
            before = ops[: max(position - 200, 0)][-400:]
            older = [o for o in before if o.key == op.key and o.f == "read" and o.result]
            if older:
                op.result = random.choice(older).result
    return ops


def registers_stale_once(count: int) -> list[Op]:
    ops = serve_registers(Random(2), count, clients=10, keys=max(2, count // 2000))
    first = next(op for op in ops if op.f == "read" and op.result and op.result[1])
    last = [op for op in ops if op.f == "read" and op.key == first.key and op.result][-1]
    last.result = first.result
    return ops


def appends(count: int, *, far: bool = False) -> list[Op]:
    random = Random(3)
    lists: dict[str, list[int]] = {}
    lengths: dict[str, list[int]] = {}
    ops, added = [], 0
    for _, start, end, client in _times(random, count):
        outcome = _outcome(random)
        stale = not far and random.random() < BROKEN_SHARE
        own: dict[str, list[int]] = {}
        seen: dict[str, list[int]] = {}
        result: list[list[Any]] = []
        for _ in range(random.randint(1, 4)):
            key = f"append/{added // ELEMENTS}/{random.randrange(KEYS)}"
            if random.random() < 0.5:
                added += 1
                own.setdefault(key, []).append(added)
                result.append(["append", key, added])
                continue
            if key not in seen:
                cuts = lengths.get(key, [0])
                cut = cuts[max(0, len(cuts) - 3)] if stale and key not in own else cuts[-1]
                seen[key] = lists.get(key, [])[:cut]
            result.append(["r", key, seen[key] + own.get(key, [])])
        if outcome is Outcome.OK or random.random() < 0.5:
            for key, elements in own.items():
                lists.setdefault(key, []).extend(elements)
                lengths.setdefault(key, [0]).append(len(lists[key]))
        value = [[f, key, what if f == "append" else None] for f, key, what in result]
        told = result if outcome is Outcome.OK else None
        ops.append(Op(client, "append", "txn", "", value, start, end, outcome, told, 1))
    if far:  # one transaction behind all others reads a list as it was first, and appends
        key = "append/0/0"
        last = max(op.end for op in ops)
        steps = [["r", key, []], ["r", min(lists, key=_generation), lists[key][:1]]]
        whole = [["r", k, e] for k, e in lists.items()]
        for n, found in enumerate(([steps[0]], whole)):
            value = [[f, k, None] for f, k, _ in found]
            at = last + 10 * n + 1
            ops.append(Op(0, "append", "txn", "", value, at, at + 5, Outcome.OK, found, 1))
    return ops


def _generation(key: str) -> int:
    return int(key.split("/")[1])


def appends_read_far_back(count: int) -> list[Op]:
    return appends(count, far=True)


def sets(count: int, *, lost: float = BROKEN_SHARE) -> list[Op]:
    random = Random(4)
    there: list[int] = []
    ops = []
    for element, (_, start, end, client) in enumerate(_times(random, count)):
        outcome = _outcome(random)
        if element % 200 == 199:
            found = list(there)
            ops.append(Op(client, "set", "read", "", None, start, end, Outcome.OK, found, 1))
            continue
        if (outcome is Outcome.OK or random.random() < 0.5) and random.random() > lost:
            there.append(element)
        ops.append(Op(client, "set", "add", "", element, start, end, outcome, None, 1))
    return ops


def sets_all_lost(count: int) -> list[Op]:
    return sets(count, lost=1.0)


def banks(count: int) -> list[Op]:
    """A transfer that is lost as a whole: soon, before what is open makes the answer unknown."""
    random = Random(5)
    balances = [100] * ACCOUNTS
    ops, revision = [], 1
    for number, (_, start, end, client) in enumerate(_times(random, count)):
        outcome = _outcome(random)
        if number % 2 == 0:
            found = {f"bank/{n}": balance for n, balance in enumerate(balances)}
            told = found if outcome is Outcome.OK else None
            ops.append(Op(client, "bank", "read", "", None, start, end, outcome, told, revision))
            continue
        one, other = random.sample(range(ACCOUNTS), 2)
        amount = random.randint(0, balances[one])
        happens = outcome is Outcome.OK or random.random() < 0.1
        lost = number == 101
        if happens:
            revision += 1
        if happens and not lost:
            balances[one] -= amount
            balances[other] += amount
        ok = outcome is Outcome.OK
        value = [one, other, amount]
        ops.append(
            Op(client, "bank", "transfer", "", value, start, end, outcome,
               True if ok else None, revision if ok else 0)
        )  # fmt: skip
    return ops


def leases(count: int, *, each: int = 100) -> list[Op]:
    """Leases that are renewed and gone early, now and then."""
    random = Random(6)
    ops = []
    for number in range(count):
        start = number * NS_PER_S // 100
        key, end = f"{number // each}", start + NS_PER_S // 200
        outcome = _outcome(random)
        f = "grant" if number % each == 0 else random.choice(("renew", "look"))
        gone = random.random() < BROKEN_SHARE
        result: Any = (not gone) if f == "look" else 0 if gone and f == "renew" else 5
        told = result if outcome is Outcome.OK else None
        ops.append(Op(0, "lease", f, key, 5, start, end, outcome, told))
    return ops


def leases_of_one(count: int) -> list[Op]:
    return leases(count, each=count)


def locks(count: int) -> list[Op]:
    random = Random(7)
    ops = []
    for number in range(count):
        key = number // 10 - (5 if random.random() < BROKEN_SHARE else 0)
        outcome = _outcome(random)
        done = True if outcome is Outcome.OK else None
        ops.append(
            Op(number % 5, "lock", "guarded_write", "a", key, 10 * number, 10 * number + 9,
               outcome, done, number + 1)
        )  # fmt: skip
    return ops


def watches(count: int, *, watchers: int = 8, lives: int = 20) -> list[Op]:
    """Streams from which events are missing, or come twice."""
    random = Random(8)
    ops, events = [], []
    last: dict[str, tuple[str, int, int]] = {}
    for revision in range(2, count + 2):
        key, value = f"a/{random.randrange(20)}", f"v{revision}"
        old = last.get(key)
        version, created = (old[1] + 1, old[2]) if old else (1, revision)
        last[key] = (value, version, created)
        previous = old[0] if old else None
        events.append([revision, "PUT", key, value, version, created, previous])
        outcome = _outcome(random)
        told = revision if outcome is Outcome.OK else 0
        at = 10 * revision
        ops.append(Op(0, "watch", "put", key, value, at, at + 5, outcome, None, told))
    each = -(-count // lives)
    for client in range(1, watchers + 1):
        for life in range(lives):
            own = events[life * each : (life + 1) * each]
            shown = [
                [event[0], [event]] for event in own for _ in range(_times_shown(random))
            ]  # fmt: skip
            start, end = 20 + 10 * life * each, 19 + 10 * (life + 1) * each
            value = [life * each + 2]
            ops.append(Op(client, "watch", "watch", "a/", value, start, end, Outcome.INFO, shown))
    return ops


def _times_shown(random: Random) -> int:
    draw = random.random()
    return 0 if draw < BROKEN_SHARE / 2 else 2 if draw < BROKEN_SHARE else 1


def kube(count: int, *, caches: int = 4, lives: int = 20) -> list[Op]:
    """The streams of `watches` as caches, each with a list before it."""
    ops = []
    objects: dict[str, list[Any]] = {}
    states: dict[int, list[Any]] = {}
    each = -(-count // lives)
    for op in watches(count, watchers=caches, lives=lives):
        op.workload = "kube"
        if op.f == "put":
            revision = op.start // 10
            old = objects.get(op.key)
            if revision % each == 2 % each:
                states[revision - 1] = [list(o) for _, o in sorted(objects.items())]
            new = [op.value, revision, old[3] + 1 if old else 1, old[4] if old else revision]
            objects[op.key] = [op.key, *new]
            op.f, op.value = ("update", [old[2], op.value]) if old else ("create", op.value)
            op.result = [True] if op.outcome is Outcome.OK else None
        else:
            op.f = "watch_cache"
            before = op.value[0] - 1
            at = op.start - 1
            ops.append(
                Op(op.client, "kube", "list", "a/", [500], at, at, Outcome.OK,
                   states[before], before)
            )  # fmt: skip
        ops.append(op)
    return ops


BROKEN: Final[dict[str, Callable[[int], list[Op]]]] = {
    made.__name__.replace("_", " "): made
    for made in (
        *(registers_stale_often, registers_stale_once, appends, appends_read_far_back),
        *(sets, sets_all_lost, banks, leases, leases_of_one, locks, watches, kube),
    )
}
