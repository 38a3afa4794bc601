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

What changes nothing where it fits (a read of the state, a compare that fails) takes effect at once
and without alternatives: that can never be in the way of anything.

An operation of unknown outcome stays pending for ever and would double the configurations each
time. Three things keep that down. What later operations settle is settled first (`_settle`): a
value that was seen was written before. A value that nobody saw is as good as any other such value,
so these are one state, UNSEEN, and of the operations that lead there (*spares*) only the first is
tried, and only where a compare that failed needs another state than there is. And a configuration
is dropped for another of the same state that needed fewer open operations, since whatever follows
is possible there too. The trade-off: the budget counts configurations; once it is spent the verdict
is unknown, never valid.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import chain
from typing import Any, Final, NamedTuple

from jepsen.history import Op, Outcome
from jepsen.verdict import Finding, Validity, Verdict

CHECKER: Final = "linearizable"
BUDGET: Final = 2_000_000
"""Configurations looked at for all keys together before the answer is unknown."""
SHRINK_BUDGET: Final = 100_000
"""Configurations for each try at making a counter-example smaller."""
ALL_SHRINK_BUDGET: Final = 2_000_000
"""Configurations for all tries together; behind that counter-examples stay as large as they are."""
FOREVER: Final = 1 << 100
"""End of an operation that may still take effect."""

READ, WRITE, CAS = "read", "write", "cas"


class _Unseen(Enum):
    VALUE = "a value that nobody saw"


UNSEEN: Final = _Unseen.VALUE
"""State of a register after an open operation that wrote what nobody saw."""


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
    spare: bool = False
    """It leads to UNSEEN, if it takes effect at all."""

    @property
    def looks(self) -> bool:
        """Whether it only looks: a read, or a compare that failed."""
        return self.f == READ or (self.f == CAS and self.end != FOREVER and self.result is False)


class _Config(NamedTuple):
    """State of the register, and the pending calls (by number) that have taken effect: those that
    will end, and the open ones."""

    state: Any
    closed: frozenset[int]
    open: frozenset[int]


def check(
    ops: Iterable[Op],
    *,
    initial: Any = None,
    budget: int = BUDGET,
    shrink_budget: int = ALL_SHRINK_BUDGET,
) -> Verdict:
    """Judge all registers.

    Args:
        ops: a history; operations of other workloads are passed over.
        initial: the value of a key that was never written.
        budget: most configurations to look at.
        shrink_budget: most of them for making counter-examples small.
    """
    by_key: dict[str, list[Op]] = defaultdict(list)
    for op in ops:
        if op.workload == "register":
            by_key[op.key].append(op)
    verdict = Verdict(CHECKER, Validity.VALID)
    search, shrinker = _Search(budget), _Shrinker(initial, shrink_budget)
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
            verdict.findings.append(_finding(key, by_key[key], calls[stuck].end, shrinker))
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
            result = _freeze(_shown(op))
        open_ = op.outcome is Outcome.INFO
        end = FOREVER if open_ else op.end
        value = tuple(map(_freeze, op.value)) if op.f == CAS else _freeze(op.value)
        calls.append(_Call(op.f, value, result, op.start, end, op))
    calls.sort(key=lambda call: call.start)
    return _settle(calls, initial)


def _shown(op: Op) -> Any:
    """The value that a read shows."""
    return op.result[0] if isinstance(op.result, list) else op.result


def _freeze(value: Any) -> Any:
    """Values must be hashable."""
    return tuple(map(_freeze, value)) if isinstance(value, list) else value


def _written(call: _Call | Op) -> Any:
    return call.value[1] if call.f == CAS else call.value


def _settle(calls: list[_Call], initial: Any) -> list[_Call]:
    """Decide open operations by what others saw, where that is certain.

    A value that exactly one operation can have written, and that was seen, was written before the
    first one who saw it had ended; an open compare-and-set that is settled so has seen what it
    expected. One that nobody saw makes a spare, unless a compare that failed tells that value from
    others. What expects such a value leads from UNSEEN to UNSEEN: it is left out.
    """
    writers = Counter(_written(call) for call in calls if call.f != READ)
    refuted = {call.value[0] for call in calls if call.f == CAS and call.looks}

    def unique(value: Any) -> bool:
        return writers[value] == 1 and value != initial

    seen: dict[Any, int] = {}
    for call in calls:
        _witness(call, seen)
    settled = dict[int, _Call]()
    waiting = [number for number, call in enumerate(calls) if call.end == FOREVER]
    while True:
        found = [n for n in waiting if unique(value := _written(calls[n])) and value in seen]
        if not found:
            break
        for number in found:
            call = calls[number]
            end = max(seen[_written(call)], call.start)
            settled[number] = replace(call, end=end, result=True if call.f == CAS else call.result)
            _witness(settled[number], seen)
        waiting = [number for number in waiting if number not in settled]
    unseen = {
        value for n in waiting if unique(value := _written(calls[n])) and value not in refuted
    }
    kept = []
    for number, call in enumerate(calls):
        call = settled.get(number, call)
        if call.end == FOREVER and _written(call) in unseen:
            if call.f == CAS and call.value[0] in unseen:
                continue
            value = (call.value[0], UNSEEN) if call.f == CAS else UNSEEN
            call = replace(call, value=value, spare=True)
        kept.append(call)
    return kept


def _witness(call: _Call, seen: dict[Any, int]) -> None:
    """Note the value that a call is certain to have seen, and the end of the first who saw it."""
    if call.f == READ:
        value = call.result
    elif call.f == CAS and call.end != FOREVER and call.result is not False:
        value = call.value[0]
    else:
        return
    seen[value] = min(seen.get(value, FOREVER), call.end)


# -- search --------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Pending:
    """The calls under way, by number, apart as the search treats them."""

    calls: Sequence[_Call]
    looking: set[int] = field(default_factory=set)
    writing: set[int] = field(default_factory=set)
    spares: defaultdict[Any, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Expected value, or UNSEEN for one that takes any -> spares by start."""

    def add(self, number: int) -> None:
        call = self.calls[number]
        if call.spare:
            self.spares[call.value[0] if call.f == CAS else UNSEEN].append(number)
        else:
            (self.looking if call.looks else self.writing).add(number)

    def remove(self, number: int) -> None:
        self.looking.discard(number)
        self.writing.discard(number)

    def looked(self, config: _Config) -> _Config:
        """The configuration after all that only look, and find what they say, have looked."""
        found = [
            number
            for number in self.looking
            if number not in config.closed and _step(self.calls[number], config.state)[1]
        ]
        return config._replace(closed=config.closed.union(found)) if found else config

    def following(self, config: _Config) -> Iterator[_Config]:
        """The configurations after one more call took effect."""
        state, closed, open_ = config
        for number in self.writing:
            if number in closed or number in open_:
                continue
            after, possible = _step(self.calls[number], state)
            if not possible:
                continue
            if self.calls[number].end != FOREVER:
                yield _Config(after, closed | {number}, open_)
            elif after != state:
                yield _Config(after, closed, open_ | {number})
        spare = self._spare(config)
        if spare is not None:
            yield _Config(UNSEEN, closed, open_ | {spare})

    def _spare(self, config: _Config) -> int | None:
        """The spare to use now, if one may help: the least useful for later, which is one that
        expects this very state, else the oldest that takes any."""
        state, closed, open_ = config
        if not self.spares or not any(
            self.calls[number].f == CAS and self.calls[number].value[0] == state
            for number in self.looking - closed
        ):
            return None
        fitting = chain(self.spares.get(state, ()), self.spares.get(UNSEEN, ()))
        return next((number for number in fitting if number not in open_), None)


class _Search:
    """The search over one key after the other, on one budget."""

    def __init__(self, budget: int) -> None:
        self.left = budget

    def run(self, calls: Sequence[_Call], initial: Any) -> int | None:
        """Return None if linearizable, else the number of the call at whose end it failed."""
        events: list[tuple[int, int, int]] = []
        for number, call in enumerate(calls):
            events.append((call.start, 0, number))
            if call.end != FOREVER:
                events.append((call.end, 1, number))
        events.sort()  # at one moment starts come first: such operations may be in either order
        pending = _Pending(calls)
        configs = {_Config(initial, frozenset(), frozenset())}
        for _, is_end, number in events:
            if not is_end:
                pending.add(number)
                continue
            configs = self._effect(pending, configs, number)
            if not configs:
                return number
            pending.remove(number)
        return None

    def _effect(self, pending: _Pending, configs: set[_Config], wanted: int) -> set[_Config]:
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
                config = pending.looked(stack.pop())
                others = looked.setdefault((config.state, config.closed), [])
                if any(other <= config.open for other in others):
                    continue
                others.append(config.open)
                self.left -= 1
                if self.left < 0:
                    raise _BudgetSpent
                if wanted in config.closed:
                    reached.add(config._replace(closed=config.closed - {wanted}))
                    continue
                for following in pending.following(config):
                    used = len(following.open)
                    (stack if used == level else by_open[used]).append(following)
        return reached


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


def _finding(key: str, ops: Sequence[Op], end: int, shrinker: _Shrinker) -> Finding:
    """Show the few operations around the failure: removing any more of them hides it."""
    few = [op for op in ops if op.start <= end]
    few = shrinker.shrink(few if shrinker.impossible(few) else list(ops))
    text = f"no order of the operations on {key!r} explains the answer of the last one"
    return Finding("not linearizable", text, sorted(few, key=lambda op: op.start))


class _Shrinker:
    """Makes counter-examples small, on one budget for all keys."""

    def __init__(self, initial: Any, budget: int) -> None:
        self._initial = initial
        self._left = budget

    def impossible(self, ops: Sequence[Op]) -> bool:
        """Whether operations are certain to have no order; False where the budget does not tell."""
        search = _Search(granted := min(SHRINK_BUDGET, self._left))
        try:
            return search.run(_calls(ops, self._initial), self._initial) is not None
        except _BudgetSpent:
            return False
        finally:
            self._left -= granted - max(search.left, 0)

    def shrink(self, kept: list[Op]) -> list[Op]:
        """Leave out operations while the rest is still impossible, many at once first."""
        size = max(1, len(kept) // 2)
        while self._left > 0:
            before = len(kept)
            at = 0
            while at < len(kept) and self._left > 0:
                gone, rest = kept[at : at + size], kept[:at] + kept[at + size :]
                if not _missed(gone, rest, self._initial) and self.impossible(rest):
                    kept = rest
                else:
                    at += size
            if size == 1 and len(kept) == before:
                break
            size = max(1, size // 2)
        return kept


def _missed(gone: Iterable[Op], rest: Iterable[Op], initial: Any) -> bool:
    """Whether somebody saw what only they wrote: then their absence would be the contradiction."""
    written = {_freeze(_written(op)) for op in gone if op.f != READ}
    seen = set()
    for op in rest:
        if op.f != WRITE and op.outcome is Outcome.OK:
            seen.add(_freeze(op.value[0] if op.f == CAS else _shown(op)))
        if op.f != READ:
            written.discard(_freeze(_written(op)))
    return bool(written & seen - {initial})
