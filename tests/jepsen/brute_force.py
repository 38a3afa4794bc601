"""Judging by trying everything: the definitions, for histories of a few operations.

`explained` looks for an order of the operations that agrees with real time and in which a model
gives the very answers. An operation of unknown outcome may be left out or take effect at any time
after its start; one that failed is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import permutations, product
from typing import Any

from jepsen.history import Op, Outcome

Model = Callable[[Any, Op], tuple[Any, bool]]
"""(state, operation) -> state after it, and whether its answer (if it has one) is right."""


def explained(ops: Sequence[Op], model: Model, initial: Any) -> bool:
    """Whether there is such an order. Exponential: for some eight operations."""
    there = [op for op in ops if op.outcome is not Outcome.FAIL]
    return _explained(frozenset(range(len(there))), there, model, initial)


def _explained(left: frozenset[int], ops: Sequence[Op], model: Model, state: Any) -> bool:
    if all(ops[number].outcome is Outcome.INFO for number in left):
        return True
    for number in _may_be_next(left, ops):
        after, right = model(state, ops[number])
        if right and _explained(left - {number}, ops, model, after):
            return True
    return False


def _may_be_next(left: frozenset[int], ops: Sequence[Op]) -> Iterator[int]:
    """Those that began before all that are left and known to have ended, had ended."""
    for number in left:
        if not any(
            ops[other].outcome is Outcome.OK and ops[other].end < ops[number].start
            for other in left - {number}
        ):
            yield number


def set_model(state: frozenset[Any], op: Op) -> tuple[frozenset[Any], bool]:
    if op.f == "add":
        return state | {op.value}, True
    return state, op.outcome is Outcome.INFO or frozenset(op.result) == state


def append_model(
    state: dict[str, tuple[Any, ...]], op: Op
) -> tuple[dict[str, tuple[Any, ...]], bool]:
    state = dict(state)
    told = op.result if op.outcome is Outcome.OK else op.value
    for f, key, element in told:
        now = state.get(key, ())
        if f == "append":
            state[key] = (*now, element)
        elif op.outcome is Outcome.OK and tuple(element or ()) != now:
            return state, False
    return state, True


def claims_hold(ops: Sequence[Op]) -> bool:
    """Whether registers answered as the claimed revisions say, wherever open writes took effect."""
    done = [op for op in ops if op.outcome is Outcome.OK]
    writes = [op for op in done if is_write(op)]
    taken = {op.revision: op for op in writes}
    if len(taken) < len(writes):
        return False
    for one, other in permutations(done, 2):
        if one.end < other.start and other.revision < one.revision + is_write(other):
            return False
    open_ = [op for op in ops if op.outcome is Outcome.INFO and op.f != "read"]
    last = max((op.revision for op in done), default=1) + len(open_)
    free = [revision for revision in range(2, last + 1) if revision not in taken]
    for places in product([None, *free], repeat=len(open_)):
        used = [place for place in places if place is not None]
        if len(set(used)) == len(used):
            happened = {place: op for place, op in zip(places, open_, strict=True) if place}
            if _replayed({**taken, **happened}, done, happened):
                return True
    return False


def is_write(op: Op) -> bool:
    return op.f == "write" or (op.f == "cas" and op.result is not False)


def _replayed(writes: dict[int, Op], done: Sequence[Op], happened: dict[int, Op]) -> bool:
    def at(key: str, revision: int) -> list[Any]:
        before = [r for r, op in writes.items() if op.key == key and r <= revision]
        if not before:
            return [None, 0]
        op = writes[max(before)]
        return [op.value[1] if op.f == "cas" else op.value, max(before)]

    for revision, op in happened.items():
        if any(one.end < op.start and one.revision >= revision for one in done):
            return False
        if op.f == "cas" and at(op.key, revision - 1)[0] != op.value[0]:
            return False
    for op in done:
        if op.f == "read" and op.result != at(op.key, op.revision):
            return False
        if op.f == "cas":
            seen = at(op.key, op.revision - 1 if op.result else op.revision)[0]
            if (seen == op.value[0]) != op.result:
                return False
    return True
