"""Majority arithmetic against the definition, counted out."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from raft.quorum import VoteResult, joint_active, joint_vote, majority_value, majority_vote
from raft.tracker import Tracker
from raft.types import ConfState

members = st.sets(st.integers(1, 7), max_size=7).map(lambda found: tuple(sorted(found)))
some_members = members.filter(bool)
votes = st.dictionaries(st.integers(1, 7), st.booleans())
values = st.dictionaries(st.integers(1, 7), st.integers(0, 5))


def majorities(voters: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The smallest sets that are more than half of `voters`; the empty set for nobody."""
    return list(combinations(voters, len(voters) // 2 + 1)) if voters else [()]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=7))
def test_majority_value_is_the_best_that_some_majority_has_reached(reached: list[int]) -> None:
    best = max(min(group) for group in combinations(reached, len(reached) // 2 + 1))
    assert majority_value(list(reached)) == best


def outcome(voters: tuple[int, ...], cast: dict[int, bool]) -> VoteResult:
    """Won if a majority said yes; lost if no majority can any more."""
    groups = majorities(voters)
    if any(all(cast.get(voter) is True for voter in group) for group in groups):
        return VoteResult.WON
    if any(all(cast.get(voter) is not False for voter in group) for group in groups):
        return VoteResult.PENDING
    return VoteResult.LOST


@given(members, votes)
def test_a_majority_decides(voters: tuple[int, ...], cast: dict[int, bool]) -> None:
    assert majority_vote(voters, cast) is outcome(voters, cast)


@given(members, members, votes)
def test_both_majorities_decide_in_a_joint_configuration(
    voters: tuple[int, ...], outgoing: tuple[int, ...], cast: dict[int, bool]
) -> None:
    halves = {outcome(voters, cast), outcome(outgoing, cast)}
    expected = next(
        result
        for result in (VoteResult.LOST, VoteResult.PENDING, VoteResult.WON)
        if result in halves
    )
    assert joint_vote(voters, outgoing, cast) is expected


@given(members, members, st.sets(st.integers(1, 7)))
def test_a_quorum_is_active_if_each_half_has_an_active_majority(
    voters: tuple[int, ...], outgoing: tuple[int, ...], active: set[int]
) -> None:
    expected = all(
        any(set(group) <= active for group in majorities(half)) for half in (voters, outgoing)
    )
    assert joint_active(voters, outgoing, active) is expected


@given(some_members, members, values)
def test_tracker_commits_what_a_quorum_of_each_half_holds(
    voters: tuple[int, ...], outgoing: tuple[int, ...], match: dict[int, int]
) -> None:
    tracker = Tracker()
    tracker.set_conf(ConfState(voters, outgoing), own_id=voters[0], next_index=9)
    for member, pr in tracker.progress.items():
        pr.match = match.get(member, 0)
    expected = max(
        index
        for index in range(6)
        if all(
            any(all(match.get(v, 0) >= index for v in group) for group in majorities(half))
            for half in (voters, outgoing)
        )
    )
    assert tracker.committed() == expected
    assert tracker.quorum_value(match) == expected
