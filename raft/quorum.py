"""Majority arithmetic, for single and joint configurations.

Pure functions of their arguments. They work on plain sequences of ids and numbers: the caller
looks the numbers up, so that one function serves match indexes and ReadIndex rounds alike.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum


class VoteResult(Enum):
    """Where a poll stands."""

    PENDING = "pending"
    LOST = "lost"
    WON = "won"


def majority_value(values: list[int]) -> int:
    """The largest v such that a majority of `values` (not empty) is >= v. Sorts in place."""
    assert values, "a majority of nobody"
    values.sort()
    return values[(len(values) - 1) // 2]


def majority_vote(voters: Sequence[int], votes: Mapping[int, bool]) -> VoteResult:
    """The result among `voters`; votes of others do not count. Nobody to ask is a victory,
    which makes the empty outgoing half of a simple configuration agree with everything."""
    if not voters:
        return VoteResult.WON
    needed = len(voters) // 2 + 1
    granted = missing = 0
    for voter in voters:
        vote = votes.get(voter)
        if vote is None:
            missing += 1
        elif vote:
            granted += 1
    if granted >= needed:
        return VoteResult.WON
    return VoteResult.PENDING if granted + missing >= needed else VoteResult.LOST


def joint_vote(
    voters: Sequence[int], outgoing: Sequence[int], votes: Mapping[int, bool]
) -> VoteResult:
    """Both halves must win; one lost half loses (section 6)."""
    first = majority_vote(voters, votes)
    second = majority_vote(outgoing, votes)
    if first is second:
        return first
    if VoteResult.LOST in (first, second):
        return VoteResult.LOST
    return VoteResult.PENDING


def joint_active(voters: Sequence[int], outgoing: Sequence[int], active: Iterable[int]) -> bool:
    """Whether the members `active` contain a quorum."""
    return joint_vote(voters, outgoing, dict.fromkeys(active, True)) is VoteResult.WON
