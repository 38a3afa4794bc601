"""Stories with the services, and with the real log and LMDB: scenarios 2, 18, 22, 24, 25."""

from __future__ import annotations

from jepsen.sim.node import Node
from jepsen.sim.rpc import OK, Status
from kvstore.node.member import load_applied
from kvstore.node.request import Kind
from kvstore.pb import lock_pb2, rpc_pb2
from tests.scenarios import stories
from tests.sim.test_requests import Story

LOCK = "/v3lockpb.Lock/Lock"
DEFRAGMENT = "/etcdserverpb.Maintenance/Defragment"
HOLDER, WAITER = 11, 12
KEYS = [b"k%d" % number for number in range(5)]
SLOW_S = 0.5
"""Mean time of a backend's commit where a crash is to come into it."""


def test_scenario_11456_a_lease_that_ends_in_the_line_gets_no_lock() -> None:
    """Scenario 2: the Lock call is answered with an error, also when the holder has left."""
    story = Story(2)
    [member, _] = story.followers
    stories.grant(story, member, HOLDER, 60)
    stories.grant(story, member, WAITER, 2)
    held = stories.call(story, member, LOCK, lock_pb2.LockRequest(name=b"l", lease=HOLDER))
    story.until(lambda: bool(held))
    assert held[0][0] == OK
    waits = stories.call(story, member, LOCK, lock_pb2.LockRequest(name=b"l", lease=WAITER))
    story.until(lambda: WAITER not in member.lessor.ids())
    stories.revoke(story, member, HOLDER)
    story.until(lambda: bool(waits))
    assert waits[0][0] != OK


def write_all(story: Story, node: Node) -> int:
    """Put all keys in one transaction; return its revision."""
    value = b"%d" % story.simulation.loop.events
    puts = [
        rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=value + key))
        for key in KEYS
    ]
    answer = stories.ask(story, node, Kind.TXN, rpc_pb2.TxnRequest(success=puts))
    assert isinstance(answer, bytes), answer
    return node.store.revision


def test_scenario_17247_no_event_comes_twice_and_no_revision_is_split() -> None:
    """Scenario 18 (17247, PR 15274): for watches from now and from the beginning, on a member that
    follows and on one that a snapshot brings back."""
    story = Story(18)
    first = write_all(story, story.leader)
    lagging, _ = story.followers
    watches = [stories.Watch(story, node, start) for node in story.nodes for start in (0, 1)]
    story.isolate(lagging)
    others = [node for node in story.nodes if node is not lagging]
    for _ in range(80):
        last = write_all(story, stories.leader_of(story, others))
    story.simulation.network.heal()
    watches += [stories.Watch(story, node, first) for node in story.nodes]
    for watch in watches:
        story.until(lambda watch=watch: watch.has(last))
        begin = first if watch.events[0][0] == first else first + 1
        expected = [(revision, key) for revision in range(begin, last + 1) for key in KEYS]
        assert watch.events == expected
        ends = [revisions[-1] for revisions in watch.responses]
        begins = [revisions[0] for revisions in watch.responses[1:]]
        assert all(end < begin for end, begin in zip(ends, begins, strict=False))
    assert installed(story)


def crash_and_agree(story: Story, victim: Node) -> None:
    """Kill a member, start it, and wait until all members are equal."""
    committed = victim.member.durable.index
    victim.crash()
    applied = load_applied(victim.backend)
    assert applied is not None
    assert applied.index >= committed
    victim.start()
    stories.put(story, stories.leader_of(story, story.nodes), b"after")
    story.until(lambda: all(node.published for node in story.nodes))
    story.until(lambda: not story.simulation.checks.converged())
    story.simulation.checks.final()


def test_scenario_13766_a_member_killed_while_it_commits_has_data_and_index_as_one() -> None:
    """Scenario 22 (13766, 13514): on the real log and LMDB, at whatever moment of a commit."""
    story = Story(22, files=True)
    for number in range(6):
        victim = story.nodes[number % 3]
        victim.commit_s = SLOW_S
        writer = next(node for node in story.nodes if node is not victim and node.serves)
        write_all(story, writer)
        story.until(lambda victim=victim: victim.thread.busy)
        write_all(story, writer)  # applied, and not in the commit that is under way
        victim.commit_s = 0.002
        crash_and_agree(story, victim)


def test_scenario_14685_a_member_killed_while_it_defragments_loses_nothing() -> None:
    """Scenario 24: on the real log and LMDB."""
    story = Story(24, files=True)
    for victim in story.nodes:
        write_all(story, victim)
        victim.commit_s = SLOW_S
        asked = stories.call(story, victim, DEFRAGMENT, rpc_pb2.DefragmentRequest())
        story.until(lambda victim=victim: victim.thread.busy)
        victim.commit_s = 0.002
        crash_and_agree(story, victim)
        assert asked == [] or asked[0][0] != OK


def installed(story: Story) -> int:
    counts = story.simulation.checks.counts
    names = ("snapshot installed", "snapshot installed while committing")
    return sum(counts.get(name, 0) for name in names)


def test_scenario_20271_a_defragmentation_beside_the_receipt_of_a_snapshot() -> None:
    """Scenario 25: on the real log and LMDB. Both are done, and the member is as the others."""
    story = Story(25, files=True)
    lagging, other = story.followers
    lagging.commit_s = 0.05
    story.isolate(lagging)
    for _ in range(80):
        write_all(story, other)
    story.simulation.network.heal()
    before = installed(story)
    answers: list[list[tuple[Status, bytes]]] = []

    def arrived() -> bool:
        """Defragment again and again until the snapshot is there."""
        if not answers or answers[-1]:
            answers.append(stories.call(story, lagging, DEFRAGMENT, rpc_pb2.DefragmentRequest()))
        return installed(story) > before

    story.until(arrived)
    story.until(lambda: all(answers))
    assert OK in [answer[0][0] for answer in answers]
    crash_and_agree(story, lagging)
