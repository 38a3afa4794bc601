"""What a request is told when the cluster does not answer it: one story each, on virtual time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from jepsen.sim.node import ELECTION_S, REQUEST_TIMEOUT_S, TICK_S, Node
from jepsen.sim.plan import Plan
from jepsen.sim.simulator import Simulation
from kvstore.errors import (
    LEADER_CHANGED,
    STOPPED,
    TIMEOUT,
    TIMEOUT_DUE_TO_LEADER_FAIL,
    Code,
    EtcdError,
)
from kvstore.node.member import Limits, Result
from kvstore.node.request import Kind
from kvstore.pb import rpc_pb2

STORIES: list[Story] = []
"""Those that the running test began; see `conftest`."""


class Story:
    """Three members with a leader, no clients, no faults but those that the test makes."""

    def __init__(self, seed: int, *, files: bool = False) -> None:
        self.simulation = Simulation(Plan(seed, members=3, files=files, pre_vote=True))
        self.nodes = self.simulation.nodes
        STORIES.append(self)
        for node in self.nodes:
            node.start()
        self.until(lambda: all(node.cluster.version for node in self.nodes))
        self.leader = next(node for node in self.nodes if node.member.is_leader)
        self.followers = [node for node in self.nodes if node is not self.leader]

    def until(self, done: Callable[[], bool], seconds: float = 60.0) -> None:
        loop = self.simulation.loop
        assert loop.run_until(loop.now + seconds, done), f"not within {seconds} virtual seconds"

    def run(self, seconds: float) -> None:
        loop = self.simulation.loop
        loop.run_until(loop.now + seconds)

    def isolate(self, node: Node) -> None:
        for other in self.nodes:
            if other is not node:
                self.simulation.network.cut(node.id, other.id)
                self.simulation.network.cut(other.id, node.id)

    def put(self, node: Node, key: bytes = b"k") -> list[Result]:
        """Propose a put; the list gets its answer."""
        answers: list[Result] = []
        body = rpc_pb2.PutRequest(key=key, value=key).SerializeToString()
        node.member.propose(Kind.PUT, body, answers.append)
        return answers

    def read(self, node: Node) -> list[EtcdError | None]:
        answers: list[EtcdError | None] = []
        node.member.read_index(answers.append)
        return answers


@pytest.fixture(params=range(3))
def story(request: pytest.FixtureRequest) -> Story:
    return Story(request.param)


def test_an_accepted_write_of_a_lost_leader_times_out_as_indefinite(story: Story) -> None:
    """GEN-10, RFT-06: the leader had logged it, so it may still happen; the code says so."""
    answers = story.put(story.leader)
    story.isolate(story.leader)
    story.until(lambda: bool(answers))
    assert answers[0] == TIMEOUT_DUE_TO_LEADER_FAIL
    assert isinstance(answers[0], EtcdError)
    assert answers[0].code is Code.UNAVAILABLE


def test_a_write_lost_on_its_way_to_a_leader_that_stays_times_out(story: Story) -> None:
    """RFT-06: nothing happened to the leader, so the plain text."""
    follower = story.followers[0]
    story.run(ELECTION_S * 2)
    answers = story.put(follower)
    story.simulation.network.cut(follower.id, story.leader.id)
    story.run(0.01)
    story.simulation.network.heal()
    story.until(lambda: bool(answers))
    assert answers == [TIMEOUT]


def test_a_write_never_handed_over_ends_with_the_native_deadline(story: Story) -> None:
    """GEN-11, RFT-22, RFT-23: it waits for a leader for the request time-out, in vain."""
    follower = story.followers[0]
    story.isolate(follower)
    story.until(lambda: not follower.member.raft.leader)
    answers = story.put(follower, b"never")
    story.until(lambda: bool(answers))
    assert isinstance(answers[0], EtcdError)
    assert (answers[0].code, answers[0].message) == (
        Code.DEADLINE_EXCEEDED,
        "context deadline exceeded",
    )
    story.simulation.network.heal()
    story.until(lambda: bool(follower.member.raft.leader))
    story.run(5.0)
    assert [node.store.get(b"never") for node in story.nodes] == [None] * 3


def test_a_write_waits_for_a_leader_that_comes_in_time(story: Story) -> None:
    """RFT-08, RFT-23."""
    follower = story.followers[0]
    story.isolate(follower)
    story.until(lambda: not follower.member.raft.leader)
    answers = story.put(follower)
    story.simulation.network.heal()
    story.until(lambda: bool(answers))
    assert isinstance(answers[0], bytes)


def test_no_request_is_given_up_before_its_time_and_none_long_after(story: Story) -> None:
    """RFT-05."""
    loop = story.simulation.loop
    story.isolate(story.leader)
    write, read, since = story.put(story.leader), story.read(story.leader), loop.now
    story.until(lambda: bool(write))
    assert REQUEST_TIMEOUT_S - 2 * TICK_S <= loop.now - since <= REQUEST_TIMEOUT_S + 3 * TICK_S
    story.until(lambda: bool(read))
    assert loop.now - since <= REQUEST_TIMEOUT_S + 3 * TICK_S


def test_the_default_time_out_is_etcds() -> None:
    """RFT-05: 5 s and two election time-outs of 1 s."""
    assert Limits().request_timeout_s == 5.0 + 2 * Limits().election_s == 7.0


def test_a_read_under_way_fails_at_once_when_the_leader_changes(story: Story) -> None:
    """RFT-04: so that its client tries again."""
    follower = story.followers[0]
    story.simulation.network.cut(story.leader.id, follower.id)
    answers = story.read(follower)
    story.until(lambda: bool(answers))
    assert answers == [LEADER_CHANGED]


def test_a_lost_round_is_sent_again(story: Story) -> None:
    """RFT-03: the same leader answers the second one."""
    follower = story.followers[0]
    story.simulation.network.cut(follower.id, story.leader.id)
    answers = story.read(follower)
    story.run(0.05)
    story.simulation.network.heal()
    story.until(lambda: bool(answers))
    assert answers == [None]
    assert follower.member.reads.slow >= 1


def test_a_read_without_an_answer_times_out(story: Story) -> None:
    """RFT-03: cut in one direction only, so that the leader stays known."""
    follower = story.followers[0]
    story.simulation.network.cut(follower.id, story.leader.id)
    answers = story.read(follower)
    story.until(lambda: bool(answers))
    assert answers[0] in (TIMEOUT, LEADER_CHANGED)


def test_a_stop_answers_everything_that_waits(story: Story) -> None:
    """RFT-07."""
    story.isolate(story.leader)
    write, read = story.put(story.leader), story.read(story.leader)
    story.leader.member.stop()
    assert (write, read) == ([STOPPED], [STOPPED])
    assert STOPPED.code is Code.UNAVAILABLE
    assert story.read(story.leader) == [STOPPED]
    with pytest.raises(EtcdError) as refused:
        story.put(story.leader)
    assert refused.value == STOPPED


def test_a_fresh_cluster_is_at_revision_1(story: Story) -> None:
    """GEN-03, JEP-03."""
    answers = story.read(story.leader)
    story.until(lambda: bool(answers))
    assert [node.store.revision for node in story.nodes] == [1, 1, 1]
