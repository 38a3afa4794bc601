"""Random schedules over real members: figure 3's properties at every step, progress at the end.

Two kinds. Long seeded ones, which wander far; and a Hypothesis machine, whose failures shrink to
the few events that matter. What is checked, and what a crash may lose, is in raft_cluster.py.
"""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
)
from raft_cluster import Cluster
from raft_schedule import run_schedule

from raft import ConfChange, ConfChangeType, Transition

SEEDS = 60
STEPS = 2000


@pytest.mark.parametrize("first", range(0, SEEDS, 10))
def test_long_schedules_keep_every_safety_property_and_end_in_progress(first: int) -> None:
    commits = served = leaders = 0
    for seed in range(first, first + 10):
        cluster = run_schedule(seed, STEPS)
        commits += cluster.max_commit
        served += cluster.reads_served
        leaders += len(cluster.leaders)
    # Chaos in which nothing happens proves nothing.
    assert commits > 100 and served > 20 and leaders > 15


some_member = st.integers(1, 5)


class ChaosMachine(RuleBasedStateMachine):
    """One event a rule. Ends with a healed network, on which the cluster must make progress."""

    @initialize(
        voters=st.integers(1, 4),
        pre_vote=st.booleans(),
        check_quorum=st.booleans(),
        window=st.sampled_from([1, 4]),
        size=st.sampled_from([1, 1 << 20]),
    )
    def begin(
        self, voters: int, pre_vote: bool, check_quorum: bool, window: int, size: int
    ) -> None:
        self.cluster = Cluster(
            voters,
            5 - voters,
            pre_vote=pre_vote,
            check_quorum=check_quorum,
            max_inflight_messages=window,
            max_message_bytes=size,
        )

    @rule(member=some_member)
    def campaign(self, member: int) -> None:
        self.cluster.campaign(member)

    @rule(member=some_member, times=st.integers(1, 8))
    def tick(self, member: int, times: int) -> None:
        for _ in range(times):
            self.cluster.tick(member)

    @rule(member=some_member, count=st.integers(1, 3))
    def propose(self, member: int, count: int) -> None:
        self.cluster.propose(member, count)

    @rule(member=some_member)
    def read(self, member: int) -> None:
        self.cluster.read(member)

    @rule(member=some_member, to=some_member)
    def transfer(self, member: int, to: int) -> None:
        self.cluster.transfer(member, to % len(self.cluster.members) + 1)

    @rule(
        member=some_member,
        changes=st.lists(st.tuples(st.sampled_from(ConfChangeType), some_member), max_size=2),
        how=st.sampled_from(Transition),
    )
    def change_conf(
        self, member: int, changes: list[tuple[ConfChangeType, int]], how: Transition
    ) -> None:
        self.cluster.change_conf(member, ConfChange(tuple(changes), how))

    @rule(member=some_member)
    def take_ready(self, member: int) -> None:
        self.cluster.take_ready(member)

    @rule(member=some_member, count=st.integers(1, 3))
    def finish_write(self, member: int, count: int) -> None:
        self.cluster.finish_write(member, count)

    @rule(rounds=st.integers(1, 4))
    def run_all(self, rounds: int) -> None:
        self.cluster.run(rounds)

    @rule(at=st.integers(0, 30), fate=st.sampled_from(["deliver", "drop", "duplicate"]))
    @precondition(lambda self: self.cluster.network)
    def network(self, at: int, fate: str) -> None:
        getattr(self.cluster, fate)(at % len(self.cluster.network))

    @rule(side=st.sets(some_member, max_size=3))
    def partition(self, side: set[int]) -> None:
        self.cluster.partition(side)

    @rule(member=some_member, keep=st.integers(0, 2))
    def crash(self, member: int, keep: int) -> None:
        self.cluster.crash(member, keep)

    @rule(member=some_member)
    def restart(self, member: int) -> None:
        self.cluster.restart(member)

    @rule(member=some_member, distance=st.integers(0, 2))
    def compact(self, member: int, distance: int) -> None:
        self.cluster.flush(member)
        self.cluster.compact(member, distance)

    def teardown(self) -> None:
        if hasattr(self, "cluster"):
            self.cluster.assert_progress()


ChaosMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=60, deadline=None, print_blob=True
)
TestChaos = ChaosMachine.TestCase
