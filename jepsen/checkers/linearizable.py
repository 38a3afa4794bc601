"""Linearizability of registers, key by key, by search: trusts nothing that the cluster claims.

Operations of workload ``register``: ``read`` (result ``[value, mod_revision]``), ``write`` and
``cas`` (result true or false). Keys are independent (linearizability is local), so each is searched
alone.

The search is Lowe's just-in-time form of Wing and Gong's: events are taken in the order of time;
what is kept is the set of *configurations*, each a state of the register and which operations
under way have taken effect. At the end of an operation every configuration in which it has
not taken effect lets any of the pending ones take effect until it has; those that cannot are given
up. No configuration left: not linearizable. The cost grows with concurrency on one key, not with
the history's length.

An operation of unknown outcome stays pending for ever and would double the configurations each
time. Two things keep that down: what later operations settle is settled first (`_settle`), and a
configuration is dropped for another of the same state that needed fewer open operations, since
whatever follows is possible there too. The trade-off: the budget counts configurations; once it is
spent the verdict is unknown, never valid.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final, NamedTuple

from jepsen.history import Op, Outcome
from jepsen.verdict import Finding, Validity, Verdict

CHECKER: Final = "linearizable"
BUDGET: Final = 2_000_000
"""Configurations looked at for all keys together before the answer is unknown."""
FOREVER: Final = 1 << 100
"""End of an operation that may still take effect."""

READ, WRITE, CAS = "read", "write", "cas"


class _BudgetSpent(Exception):
    pass


@dataclass(slots=True)
class _Call:
    """One operation as the search sees it. ``end`` is FOREVER while the outcome is open."""

    f: str
    value: Any
    result: Any
    start: int
    end: int
    op: Op


class _Config(NamedTuple):
    """State of the register, and the pending calls (by number) that have taken effect: those that
    will end, and the open ones."""

    state: Any
    closed: frozenset[int]
    open: frozenset[int]


def check(ops: Iterable[Op], *, initial: Any = None, budget: int = BUDGET) -> Verdict:
    """Judge all registers.

    Args:
        ops: a history; operations of other workloads are passed over.
        initial: the value of a key that was never written.
        budget: most configurations to look at.
    """
    by_key: dict[str, list[Op]] = defaultdict(list)
    for op in ops:
        if op.workload == "register":
            by_key[op.key].append(op)
    verdict = Verdict(CHECKER, Validity.VALID)
    search = _Search(budget)
    for key in sorted(by_key):
        calls = _calls(by_key[key], initial)
        verdict.checked += len(by_key[key])
        try:
            stuck = search.run(calls, initial)
        except _BudgetSpent:
            if verdict.validity is Validity.VALID:
                verdict.validity = Validity.UNKNOWN
            verdict.note = f"the search of key {key!r} needs more than {budget} configurations"
            continue
        if stuck is not None:
            verdict.validity = Validity.INVALID
            verdict.findings.append(_finding(key, calls, stuck, initial))
    return verdict


# -- preparation ---------------------------------------------------------------------------------


def _calls(ops: Sequence[Op], initial: Any) -> list[_Call]:
    """Operations that may have taken effect, by start; failed ones certainly did not."""
    calls = []
    for op in ops:
        if op.outcome is Outcome.FAIL or (op.outcome is Outcome.INFO and op.f == READ):
            continue
        result = op.result
        if op.f == READ:
            result = _freeze(result[0] if isinstance(result, list) else result)
        open_ = op.outcome is Outcome.INFO
        end = FOREVER if open_ else op.end
        value = tuple(map(_freeze, op.value)) if op.f == CAS else _freeze(op.value)
        calls.append(_Call(op.f, value, result, op.start, end, op))
    calls.sort(key=lambda call: call.start)
    return _settle(calls, initial)


def _freeze(value: Any) -> Any:
    """Values must be hashable."""
    return tuple(map(_freeze, value)) if isinstance(value, list) else value


def _written(call: _Call) -> Any:
    return call.value[1] if call.f == CAS else call.value


def _settle(calls: list[_Call], initial: Any) -> list[_Call]:
    """Decide open writes by what others saw, where that is certain.

    A value that exactly one operation can have written, and that was seen, was written before the
    first one who saw it had ended. One that nobody saw is left out, if nobody can have seen its
    absence either: no compare failed or is open, so only reads look, and a write that no read
    follows directly changes no answer.
    """
    writers: dict[Any, int] = defaultdict(int)
    for call in calls:
        if call.f != READ:
            writers[_written(call)] += 1
    seen: dict[Any, int] = {}
    compares = False
    for call in calls:
        if call.f == READ:
            witnessed = call.result
        elif call.f == CAS and call.end != FOREVER and call.result is not False:
            witnessed = call.value[0]
        else:
            compares = compares or call.f == CAS
            continue
        seen[witnessed] = min(seen.get(witnessed, FOREVER), call.end)
    settled = []
    for call in calls:
        if call.end == FOREVER:
            value = _written(call)
            unique = writers[value] == 1 and value != initial
            if unique and value in seen:
                call = replace(call, end=max(seen[value], call.start))
            elif unique and not compares:
                continue
        settled.append(call)
    return settled


# -- search --------------------------------------------------------------------------------------


class _Search:
    """The search over one key after the other, on one budget."""

    def __init__(self, budget: int) -> None:
        self._left = budget

    def run(self, calls: Sequence[_Call], initial: Any) -> int | None:
        """Return None if linearizable, else the number of the call at whose end it failed."""
        events: list[tuple[int, int, int]] = []
        for number, call in enumerate(calls):
            events.append((call.start, 0, number))
            if call.end != FOREVER:
                events.append((call.end, 1, number))
        events.sort()  # at one moment starts come first: such operations may be in either order
        pending: set[int] = set()
        configs = {_Config(initial, frozenset(), frozenset())}
        for _, is_end, number in events:
            if not is_end:
                pending.add(number)
                continue
            configs = self._effect(calls, pending, configs, number)
            if not configs:
                return number
            pending.discard(number)
        return None

    def _effect(
        self, calls: Sequence[_Call], pending: set[int], configs: set[_Config], wanted: int
    ) -> set[_Config]:
        """Let pending calls take effect in every possible order until ``wanted`` has."""
        looked: dict[tuple[Any, frozenset[int]], list[frozenset[int]]] = {}
        reached: set[_Config] = set()
        # By the number of open calls used, so that what makes a configuration needless comes first.
        by_open: dict[int, list[_Config]] = defaultdict(list)
        for config in configs:
            by_open[len(config.open)].append(config)
        while by_open:
            level = min(by_open)
            stack = by_open.pop(level)
            while stack:
                config = stack.pop()
                others = looked.setdefault((config.state, config.closed), [])
                if any(other <= config.open for other in others):
                    continue
                others.append(config.open)
                self._left -= 1
                if self._left < 0:
                    raise _BudgetSpent
                if wanted in config.closed:
                    reached.add(config._replace(closed=config.closed - {wanted}))
                    continue
                for following in _following(calls, pending, config):
                    used = len(following.open)
                    (stack if used == level else by_open[used]).append(following)
        return reached


def _following(calls: Sequence[_Call], pending: set[int], config: _Config) -> Iterator[_Config]:
    """The configurations after one more pending call took effect."""
    state, closed, open_ = config
    for number in pending:
        if number in closed or number in open_:
            continue
        after, possible = _step(calls[number], state)
        if not possible:
            continue
        if calls[number].end != FOREVER:
            yield _Config(after, closed | {number}, open_)
        elif after != state:
            yield _Config(after, closed, open_ | {number})


def _step(call: _Call, state: Any) -> tuple[Any, bool]:
    """The state after a call took effect, and whether its answer allows that."""
    if call.f == WRITE:
        return call.value, True
    if call.f == READ:
        return state, state == call.result
    expected, new = call.value
    matched = state == expected
    if call.end == FOREVER or call.result is None:  # unknown: it takes effect only if it matched
        return new, matched
    if matched != bool(call.result):
        return state, False
    return (new if matched else state), True


# -- the counter-example -------------------------------------------------------------------------


def _finding(key: str, calls: Sequence[_Call], stuck: int, initial: Any) -> Finding:
    """Show the few operations around the failure: removing any more of them hides it."""
    end = calls[stuck].end
    few = [call for call in calls if call.start <= end]
    few = _shrink(few, initial)
    text = f"no order of the operations on {key!r} explains the answer of the last one"
    return Finding("not linearizable", text, [call.op for call in few])


def _shrink(calls: list[_Call], initial: Any) -> list[_Call]:
    """Leave out operations while the rest is still impossible. Reads may always be left out; a
    write may be, if no one saw it: else its absence alone would be the contradiction."""
    kept = calls
    for call in reversed(calls):
        if call.f != READ and _was_seen(call, kept, initial):
            continue
        rest = [other for other in kept if other is not call]
        try:
            if _Search(BUDGET // 20).run(rest, initial) is not None:
                kept = rest
        except _BudgetSpent:
            continue
    return kept


def _was_seen(call: _Call, calls: Iterable[_Call], initial: Any) -> bool:
    value = _written(call)
    return value == initial or any(
        (other.f == READ and other.result == value) or (other.f == CAS and other.value[0] == value)
        for other in calls
        if other is not call
    )


def overlaps(ops: Sequence[Op]) -> int:
    """Return how many operations began before the one before them had ended: a history without
    concurrency shows little."""
    ordered = sorted(ops, key=lambda op: op.start)
    return sum(later.start < earlier.end for earlier, later in pairwise(ordered))
