"""Membership changes under faults, and the one situation in which a removed member is needed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from jepsen.sim.node import Node
from jepsen.sim.plan import Plan
from jepsen.sim.simulator import Simulation, run
from kvstore.membership import changes
from kvstore.node.member import Result
from kvstore.node.request import Kind
from kvstore.node.retirement import Retirement


def test_changes_of_members_do_occur_and_keep_all_promises() -> None:
    """CLU-09, CLU-11, CLU-14, CLU-15: members and learners are added, promoted, updated, removed
    and replaced while faults come and go; every answer is the truth."""
    counts: dict[str, int] = {}
    for seed in range(6):
        for what, count in run(Plan(seed, changes=True)).counts.items():
            counts[what] = counts.get(what, 0) + count
    expected = {
        "member added", "learner added", "learner promoted", "member removed", "member updated",
        "member started", "disk lost", "removed member stopped (applied)",
        "removed member stopped (told)",
        "learner added: etcdserver: too many learner members in cluster",
    }  # fmt: skip
    assert expected <= counts.keys()


class Two(Simulation):
    """Two members without faults; the leader removes itself, and the other is not told so."""

    def __init__(self) -> None:
        super().__init__(Plan(1, members=2, changes=False))
        for node in list(self.nodes):
            node.start()
        assert self.wait(10.0, lambda: self.leader() is not None)

    def wait(self, seconds: float, done: Callable[[], bool]) -> bool:
        return self._run_for(seconds, done)

    def leader(self) -> Node | None:
        return next((node for node in self.nodes if node.up and node.member.is_leader), None)

    def remove_leader_unheard(self) -> Node:
        """Return the member that stays: its disk holds the removal, but it does not know that this
        is committed."""
        leader = self.leader()
        assert leader is not None
        [stays] = [node for node in self.nodes if node is not leader]
        self.wait(3.0, lambda: False)  # both have published themselves
        results: list[Result] = []
        body = changes.encode_id(leader.id)
        leader.member.propose_change(Kind.MEMBER_REMOVE, body, results.append)
        assert self.wait(5.0, lambda: stays.member.raft.last_index > leader.member.applied_index)
        self.network.cut(leader.id, stays.id)
        assert self.wait(5.0, lambda: bool(results))
        assert isinstance(results[0], bytes)
        return stays

    def serves(self, node: Node) -> bool:
        waiting = {node.name}
        self._probe(node, waiting)
        return self.wait(10.0, lambda: not waiting)


def test_removed_leader_stays_until_the_other_knows(request: pytest.FixtureRequest) -> None:
    """CLU-11."""
    two = Two()
    request.addfinalizer(two.close)
    stays = two.remove_leader_unheard()
    two.wait(5.0, lambda: False)
    two.network.heal()
    assert two.serves(stays)
    assert two.wait(5.0, lambda: all(node.gone for node in two.nodes if node is not stays))
    assert stays.cluster.members.keys() == {stays.id}


def test_without_that_the_other_could_never_lead_again(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Retirement, "due", lambda self, voters, now: self.noticed)
    two = Two()
    request.addfinalizer(two.close)
    stays = two.remove_leader_unheard()
    two.wait(5.0, lambda: False)
    two.network.heal()
    assert not two.serves(stays)
