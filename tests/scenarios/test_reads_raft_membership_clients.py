"""Reads, elections and clients: scenarios 35, 36 and 40, simulated and on real members."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import pytest

from jepsen.chaos.client import Connection, Failed
from jepsen.history import Outcome
from jepsen.hunts.base import Ground, Server
from jepsen.hunts.processes import PATIENCE_S, Processes, until_answered
from jepsen.hunts.reads import leader_paused_between_a_read_and_its_repetition
from jepsen.sim.node import ELECTION_S, Node
from kvstore.errors import EtcdError
from kvstore.pb import rpc_pb2
from kvstore.testing.links import OUTSIDE, Link, Links
from kvstore.testing.processes import wait_until
from tests.e2e.client import put_op
from tests.scenarios import stories
from tests.sim.test_requests import Story


@pytest.mark.parametrize("lead_s", [0.0, 0.001, 0.003, 0.01])
@pytest.mark.parametrize("seed", range(4))
def test_scenario_20418_a_leader_paused_in_its_read_index_answers_nothing_stale(
    seed: int, lead_s: float
) -> None:
    """Scenario 35 (20418, PR 21399, 21375, 14258): reads begin on the leader and a follower, and
    are repeated; the leader pauses in the middle, others lead and write, it comes back."""
    story = Story(seed)
    old, other = story.leader, story.followers[0]
    began: list[tuple[Node, int]] = []
    served = 0

    def read(node: Node) -> None:
        newest = max(n.store.revision for n in story.nodes)
        began.append((node, newest))

        def done(error: EtcdError | None) -> None:
            nonlocal served
            if error is None:
                served += 1
                assert node.store.revision >= newest, "a stale read"

        node.member.read_index(done)

    stories.put(story, old, b"k")
    for node in (old, other):
        read(node)
    story.run(lead_s)
    old.pause(10.0)
    for _ in range(5):
        read(old)  # queued in its sockets while it stands still
    successor = stories.leader_of(story, story.followers)
    read(successor)  # nothing may be committed in its term yet
    last = stories.put(story, successor, b"k")
    read(old)
    read(other)
    for _ in range(120):
        story.run(0.1)
        read(old)
    story.until(lambda: old.store.revision == last)
    story.run(3.0)
    assert served > 0
    assert len(began) > 100


def test_scenario_8243_members_that_come_back_disturb_nobody() -> None:
    """Scenario 36: one that was cut off for long has no larger term, and the leader stays."""
    for seed in range(5):
        story = Story(seed)
        away, leader = story.followers[0], story.leader
        term = leader.member.raft.term
        story.isolate(away)
        story.until(lambda away=away: not away.member.raft.leader)
        story.run(20 * ELECTION_S)
        assert away.member.raft.term == term
        story.simulation.network.heal()
        story.run(5 * ELECTION_S)
        assert leader.member.is_leader
        assert [node.member.raft.term for node in story.nodes] == [term] * 3


def test_scenario_14893_a_leader_comes_whatever_terms_and_logs_there_are() -> None:
    """Scenario 36 (14893, openraft 1796): after each member in turn was alone, with entries that
    nobody else has, some are crashed and all come back."""
    for seed in range(5):
        story = Story(seed)
        for node in story.nodes:
            story.isolate(node)
            if node.member.is_leader:
                for number in range(3):  # only in its own log
                    story.put(node, b"lost %d %d" % (number, node.id))
            rest = [other for other in story.nodes if other is not node]
            story.until(lambda rest=rest: any(n.member.is_leader for n in rest))
            node.crash()
            story.simulation.network.heal()
            story.run(1.0)
            node.start()
        began = story.simulation.loop.now
        leader = stories.leader_of(story, story.nodes)
        stories.put(story, leader, b"after all")
        assert story.simulation.loop.now - began < 10 * ELECTION_S


def test_scenario_9586_a_real_member_that_comes_back_has_no_larger_term(three: Processes) -> None:
    """Scenario 36: it asks before it votes, so its term stays while it is alone."""
    away, other = three.followers()
    with three.partitioned([away]):
        wait_until(lambda: not three.status(away).leader, PATIENCE_S, "it has no leader")
        term = three.status(away).raftTerm
        alone = time.monotonic()
        while time.monotonic() < alone + 3.0:  # some election time-outs, in which nothing happens
            assert three.status(away, PATIENCE_S).raftTerm == term
        written = three.client(other).put(b"meanwhile").header.revision
    assert until_answered(lambda: three.client(away).get(b"meanwhile")).count == 1
    three.wait_revision(away, written)


def test_scenario_20418_a_real_leader_paused_between_a_read_and_its_repetition(
    tmp_path: Path,
) -> None:
    """Scenario 35 (20418, PR 21399): as it is found in etcd 3.4.23."""
    tries = leader_paused_between_a_read_and_its_repetition(Ground(Server(), tmp_path))
    with contextlib.closing(tries):
        assert next(tries) == ""


def test_scenario_1444_a_transaction_whose_answer_is_lost_is_not_repeated(
    three: Processes, tmp_path: Path
) -> None:
    """Scenario 40 (jetcd 1444, 14890, 18424): the client of our workloads is told nothing, says
    that it does not know, and the counter has grown once."""
    links = Links()
    member = three.members[0]
    try:
        target = ("127.0.0.1", member.place.client_port)
        port = links.listen(("127.0.0.1", 0), target, 0, dialer=OUTSIDE)
        asyncio.run(_lose_an_answer(links, f"127.0.0.1:{port}", three))
    finally:
        links.close()
    counter = three.client(0).get(b"counted").kvs[0]
    assert (counter.version, counter.value) == (2, b"2")


async def _lose_an_answer(links: Links, endpoint: str, three: Processes) -> None:
    def cut(link: Link) -> None:
        link.cut = True

    connection = Connection("c", endpoint)
    await connection.call("put", key=b"counted", value=b"1")
    links.change([(0, OUTSIDE)], cut)  # answers only
    request = rpc_pb2.TxnRequest(success=[put_op(b"counted", b"2")])
    asked = asyncio.create_task(connection.send("txn", request, PATIENCE_S))
    direct = three.client(0)
    while direct.get(b"counted").kvs[0].value != b"2":
        await asyncio.sleep(0)
    assert not asked.done()
    links.reset(0)
    with pytest.raises(Failed) as failed:
        await asked
    assert failed.value.outcome is Outcome.INFO
    links.heal()
    await connection.call("range", key=b"counted")  # it is connected again
    await connection.close()
