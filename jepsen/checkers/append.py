"""Strict serializability of list-append transactions, by the cycles of their dependencies.

Workload ``append``, f ``txn``: value is a list of ``["append", key, element]`` and ``["r", key,
null]``, the result the same with each read's list in place of null. Elements are unique for a key.
Since a list shows its whole history, reads give away the order of all appends (Kingsbury and
Alvaro, "Elle", VLDB 2020), and with it who depends on whom:

    ww  it appended right behind the other's element
    wr  it read a list that ends with the other's element
    rw  it read a list to which the other appended the next element
    rt  it began after the other had ended (real time)

A cycle is an order that cannot be; its edges name the anomaly. Before cycles come faults that a
single read shows: elements from failed or half-done transactions, duplicates, lists that are no
prefixes of one another, a transaction that misses its own writes.

The trade-off: real time is put in by a chain of moments (each end is a node), which keeps edges as
many as operations instead of as many as pairs. Strongly connected components tell whether there is
a cycle, in time that grows as the history does, so the verdict needs no budget; only how small the
cycles are that are shown has one.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, pairwise
from typing import Any, Final

from jepsen.history import Op, Outcome
from jepsen.verdict import Finding, Findings, Verdict

CHECKER: Final = "append"
SEARCH_BUDGET: Final = 2_000_000
"""Edges looked at to make cycles small, for all together; some seconds. A cycle that was not made
as small as it can be is no less of one."""

APPEND, READ = "append", "r"
WW, WR, RW, RT = "ww", "wr", "rw", "rt"

_Edges = dict[int, dict[int, str]]
"""From node to node -> kind. Nodes below the number of operations are these, others moments."""


def check(ops: Iterable[Op]) -> Verdict:
    """Judge all transactions of the history."""
    judged = [op for op in ops if op.workload == "append"]
    analysis = _Analysis(judged)
    analysis.run()
    return analysis.findings.verdict(CHECKER, len(judged))


class _Analysis:
    """One history on its way to a verdict."""

    def __init__(self, ops: Sequence[Op]) -> None:
        self.ops = [op for op in ops if op.outcome is not Outcome.FAIL]
        self.findings = Findings()
        self._failed: dict[tuple[str, Any], Op] = {}
        self._writer: dict[tuple[str, Any], int] = {}
        self._orders: dict[str, list[Any]] = {}
        for op in ops:
            if op.outcome is Outcome.FAIL:
                for key, element in _appends(op):
                    self._failed[key, element] = op
        for number, op in enumerate(self.ops):
            for key, element in _appends(op):
                self._writer[key, element] = number

    def run(self) -> None:
        for number, op in enumerate(self.ops):
            if op.outcome is Outcome.OK:
                self._check_alone(number, op)
        self._find_orders()
        if self.findings:
            return  # cycles of dependencies that are wrong already explain nothing
        edges = self._dependencies()
        self._add_real_time(edges)
        self._find_cycles(edges)

    # Single reads.

    def _check_alone(self, number: int, op: Op) -> None:
        own: dict[str, list[Any]] = defaultdict(list)
        seen: dict[str, list[Any]] = {}
        for f, key, found in op.result:
            if f == APPEND:
                own[key].append(found)
                continue
            elements = found or []
            self._check_list(op, key, elements)
            for element in elements:
                if self._writer.get((key, element)) == number and element not in own[key]:
                    self._find("read of its own future", f"{key!r} as {elements}", op)
            expected_end = own[key]
            if expected_end and elements[-len(expected_end) :] != expected_end:
                self._find("own writes missing", f"{key!r} as {elements} lacks {own[key]}", op)
            if key in seen and elements[: len(seen[key])] != seen[key]:
                self._find("reads of one transaction differ", f"{key!r} first {seen[key]}", op)
            seen[key] = elements

    def _check_list(self, op: Op, key: str, elements: list[Any]) -> None:
        if len(set(elements)) != len(elements):
            self._find("duplicate element", f"{key!r} is {elements}", op)
        for position, element in enumerate(elements):
            failed = self._failed.get((key, element))
            if failed is not None:
                text = f"{element!r} in {key!r} is of a transaction that failed"
                self._find("aborted read (G1a)", text, failed, op)
            writer = self._writer.get((key, element))
            if writer is None:
                if failed is None:
                    self._find("element out of nowhere", f"{element!r} in {key!r}", op)
                continue
            self._check_whole(op, key, elements, position, self.ops[writer])

    def _check_whole(
        self, op: Op, key: str, elements: list[Any], position: int, writer: Op
    ) -> None:
        """All of a transaction's appends to a key are seen together."""
        together = [element for other, element in _appends(writer) if other == key]
        at = together.index(elements[position])
        following = elements[position + 1 : position + 2]
        if at + 1 < len(together) and following != [together[at + 1]] and writer is not op:
            text = f"{key!r} as {elements} shows a part of {together}"
            self._find("intermediate read (G1b)", text, writer, op)

    def _find_orders(self) -> None:
        """The longest list of each key gives the order; all others must be prefixes of it."""
        longest: dict[str, tuple[list[Any], Op]] = {}
        reads = [(key, found, op) for op in self.ops for key, found in _reads(op)]
        for key, found, op in reads:
            if key not in longest or len(found) > len(longest[key][0]):
                longest[key] = (found, op)
        for key, found, op in reads:
            whole, by = longest[key]
            if whole[: len(found)] != found:
                text = f"{key!r} is {found} for one and {whole} for another"
                self._find("incompatible order", text, by, op)
        self._orders = {key: whole for key, (whole, _) in longest.items()}

    def _find(self, kind: str, text: str, *ops: Op) -> None:
        self.findings.append(Finding(kind, text, list(ops)))

    # Dependencies.

    def _dependencies(self) -> _Edges:
        edges: _Edges = defaultdict(dict)
        unseen = self._unseen()
        for key, order in self._orders.items():
            writers = [self._writer[key, element] for element in order]
            for before, after in pairwise(writers):
                _add(edges, before, after, WW)
            if writers:
                for after in unseen[key]:
                    _add(edges, writers[-1], after, WW)
        for number, op in enumerate(self.ops):
            for key, found in _reads(op):
                order = self._orders[key]
                if found:
                    _add(edges, self._writer[key, found[-1]], number, WR)
                if len(found) < len(order):
                    _add(edges, number, self._writer[key, order[len(found)]], RW)
                    continue
                for after in unseen[key]:
                    _add(edges, number, after, RW)
        return edges

    def _unseen(self) -> dict[str, list[int]]:
        """Key -> who appended for certain what no read shows: it comes after all that reads show,
        and after the reads themselves. An open one is certain if another of its elements is seen.
        """
        happened = {self._writer[key, e] for key, order in self._orders.items() for e in order}
        unseen: dict[str, list[int]] = defaultdict(list)
        shown = {key: set(order) for key, order in self._orders.items()}
        for number, op in enumerate(self.ops):
            if op.outcome is Outcome.OK or number in happened:
                for key, element in _appends(op):
                    if key in shown and element not in shown[key]:
                        unseen[key].append(number)
        return unseen

    def _add_real_time(self, edges: _Edges) -> None:
        """Each end of an operation is a moment: it leads to the next one, and to all that began
        before that."""
        count = len(self.ops)
        ends = sorted((op.end, n) for n, op in enumerate(self.ops) if op.outcome is Outcome.OK)
        for position, (_, number) in enumerate(ends):
            moment = count + position
            _add(edges, number, moment, RT)
            if position:
                _add(edges, moment - 1, moment, RT)
        starts = sorted((op.start, n) for n, op in enumerate(self.ops))
        position = 0
        for start, number in starts:
            while position < len(ends) and ends[position][0] < start:
                position += 1
            if position:
                _add(edges, count + position - 1, number, RT)

    def _find_cycles(self, edges: _Edges) -> None:
        """One smallest cycle for each component, by the strongest name first: a component that only
        weaker edges close is told when no cycle that was told already lies in it."""
        tangled = {n for part in components(edges) if len(part) > 1 for n in part}
        search = _Search(len(self.ops))
        told: set[int] = set()
        for allowed in ({WW}, {WW, WR}, {WW, WR, RW}, {WW, WR, RW, RT}):
            own = _restricted(edges, tangled, allowed)
            for component in components(own):
                if len(component) == 1 or not told.isdisjoint(component):
                    continue
                cycle = search.smallest(own, component)
                told.update(cycle)
                self._tell(edges, cycle)

    def _tell(self, edges: _Edges, cycle: list[int]) -> None:
        kinds = [edges[a][b] for a, b in zip(cycle, cycle[1:] + cycle[:1], strict=True)]
        shown = [self.ops[node] for node in cycle if node < len(self.ops)]
        words = " ".join(kind for kind, _ in groupby(kinds)) if RT in kinds else " ".join(kinds)
        self._find(_anomaly(kinds), f"a cycle of dependencies: {words}", *shown)


def _anomaly(kinds: list[str]) -> str:
    """Adya's name for a cycle; "-realtime" when only the order in time closes it."""
    suffix = "-realtime" if RT in kinds else ""
    anti = kinds.count(RW)
    if anti > 1:
        return "G2" + suffix
    if anti == 1:
        return "G-single" + suffix
    return ("G1c" if WR in kinds else "G0") + suffix


def _add(edges: _Edges, before: int, after: int, kind: str) -> None:
    """Of several dependencies between two the first one, the strongest, is kept."""
    if before != after:
        edges[before].setdefault(after, kind)


def _appends(op: Op) -> Iterator[tuple[str, Any]]:
    return ((key, element) for f, key, element in op.value if f == APPEND)


def _reads(op: Op) -> Iterator[tuple[str, list[Any]]]:
    """What it read of others: a read after an append of its own shows that too, cut off here."""
    if op.outcome is not Outcome.OK:
        return
    own: dict[str, int] = defaultdict(int)
    for f, key, found in op.result:
        if f == APPEND:
            own[key] += 1
        else:
            elements = found or []
            yield key, elements[: len(elements) - own[key]]


# -- graphs --------------------------------------------------------------------------------------


def components(edges: _Edges) -> list[list[int]]:
    """Strongly connected components (Tarjan, without recursion: histories are long)."""
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    on_stack: set[int] = set()
    stack: list[int] = []
    found: list[list[int]] = []
    for root in list(edges):
        if root in index:
            continue
        work: list[tuple[int, Iterator[int]]] = [(root, iter(list(edges.get(root, ()))))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, successors = work[-1]
            for successor in successors:
                if successor not in index:
                    index[successor] = low[successor] = len(index)
                    stack.append(successor)
                    on_stack.add(successor)
                    work.append((successor, iter(list(edges.get(successor, ())))))
                    break
                if successor in on_stack:
                    low[node] = min(low[node], index[successor])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    component = []
                    while True:
                        member = stack.pop()
                        on_stack.discard(member)
                        component.append(member)
                        if member == node:
                            break
                    found.append(component)
    return found


def _restricted(edges: _Edges, inside: set[int], allowed: set[str]) -> _Edges:
    """The part of a graph that has some nodes and some kinds of edges only."""
    return {
        node: {to: kind for to, kind in edges[node].items() if kind in allowed and to in inside}
        for node in sorted(inside & edges.keys())
    }


class _Search:
    """Looks for small cycles, on one budget for all of them.

    That there is a cycle is known before: what the budget limits is only how small it gets. A
    cycle's length is the number of its operations; moments between them cost nothing.
    """

    def __init__(self, operations: int, budget: int = SEARCH_BUDGET) -> None:
        self._operations = operations
        self._left = budget

    def smallest(self, edges: _Edges, component: Sequence[int]) -> list[int]:
        """Return the nodes of a smallest cycle of a strongly connected component, as far as the
        budget goes; the first look is made in any case."""
        inside = set(component)
        best: list[int] = []
        length = 0
        for root in sorted(node for node in inside if node < self._operations):
            if best and (length <= 2 or self._left <= 0):
                break
            cycle = self._through(root, edges, inside, length - 1 if best else len(inside))
            if cycle:
                best, length = cycle, sum(node < self._operations for node in cycle)
        return best

    def _through(self, root: int, edges: _Edges, inside: set[int], most: int) -> list[int]:
        """A cycle through a node with so many operations at most, [] if there is none."""
        cost: dict[int, int] = {root: 1}
        came: dict[int, int] = {}
        queue = deque([root])
        done: set[int] = set()
        while queue:
            node = queue.popleft()
            if node in done:
                continue
            done.add(node)
            for successor in edges.get(node, ()):
                if successor not in inside:
                    continue
                self._left -= 1
                if successor == root:
                    cycle = [node]
                    while cycle[-1] != root:
                        cycle.append(came[cycle[-1]])
                    return cycle[::-1]
                step = int(successor < self._operations)
                reached = cost[node] + step
                if reached <= most and reached < cost.get(successor, most + 1):
                    cost[successor], came[successor] = reached, node
                    (queue.append if step else queue.appendleft)(successor)
        return []
