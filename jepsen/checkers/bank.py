"""Balances between two reads change by the transfers between them, and by nothing else.

`sets.check_bank` judges each read by itself, which a transfer that is lost as a whole passes. Here
reads and transfers are in the order of the revisions that were answered. Transfers of unknown
outcome may explain a difference: all choices among them that explain everything so far are kept.
One is no choice any more after a later transfer touched its accounts, for its guard would refuse.

The trade-off: with more than `MAX_CHOICES` ways to explain a history the verdict is unknown.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from typing import Final

from jepsen.history import Op, Outcome
from jepsen.verdict import Finding

FOREVER: Final = 1 << 62
MAX_CHOICES: Final = 500
MAX_OPEN: Final = 10
"""Most open transfers at once of which all combinations are tried."""


class TooManyChoices(Exception):
    """Too many transfers ended unknown to say what explains the balances."""


def account(number: int) -> str:
    """The name of an account in reads."""
    return f"bank/{number}"


def lost_transfers(ops: Sequence[Op]) -> Iterator[Finding]:
    """Yield what differs, for the first read that cannot be explained; see the docstring above.

    Raises TooManyChoices.
    """
    reads = [op for op in ops if op.f == "read" and op.outcome is Outcome.OK and op.revision]
    transfers = [op for op in ops if op.f == "transfer"]
    done = [op for op in transfers if op.outcome is Outcome.OK and op.result and op.revision]
    done.sort(key=lambda op: op.revision)
    open_ = [op for op in transfers if op.outcome is Outcome.INFO]
    reads.sort(key=lambda op: (op.revision, op.start))
    revisions = [op.revision for op in done]
    until = [_until(op, done) for op in open_]
    choices: set[frozenset[int]] = {frozenset()}
    for before, read in pairwise(reads):
        between = done[
            bisect_right(revisions, before.revision) : bisect_right(revisions, read.revision)
        ]
        left = Counter(read.result)
        left.subtract(before.result)
        left.subtract(_moved(between))
        possible = [
            n
            for n, op in enumerate(open_)
            if before.revision < min(read.revision, until[n]) and op.start < read.end
        ]
        if len(possible) > MAX_OPEN or len(choices) > MAX_CHOICES:
            raise TooManyChoices
        choices = {
            used | set(some)
            for used in choices
            for some in _subsets([n for n in possible if n not in used])
            if _equal(left, _moved([open_[n] for n in some]))
        }
        if not choices:
            text = f"from revision {before.revision} to {read.revision} balances changed by"
            text += f" {_nonzero(left)} more than all transfers between"
            yield Finding("transfer lost or made up", text, [before, *between[:10], read])
            return


def _until(op: Op, done: Sequence[Op]) -> int:
    """The revision from which on the guard of an open transfer refuses it: one of its accounts was
    written by a transfer that began after the guard was read."""
    mine = set(op.value[:2])
    later = (o.revision for o in done if o.start > op.end and mine & set(o.value[:2]))
    return next(later, FOREVER)


def _moved(transfers: Sequence[Op]) -> Counter[str]:
    change: Counter[str] = Counter()
    for op in transfers:
        source, target, amount = op.value
        change[account(source)] -= amount
        change[account(target)] += amount
    return change


def _subsets(numbers: Sequence[int]) -> Iterator[tuple[int, ...]]:
    for size in range(len(numbers) + 1):
        yield from combinations(numbers, size)


def _equal(one: Counter[str], other: Counter[str]) -> bool:
    return _nonzero(one) == _nonzero(other)


def _nonzero(change: Counter[str]) -> dict[str, int]:
    return {name: amount for name, amount in sorted(change.items()) if amount}
