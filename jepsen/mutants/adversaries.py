"""Adversaries: each drives a cluster of three towards one pattern that chance hardly ever reaches.

They know nothing of mutants: the sound server passes every one of them, and its runs say that the
patterns were reached (`stage.HAZARD`). Most end in an election that only a broken member could win.
"""

from __future__ import annotations

from functools import partial

from jepsen.mutants.stage import Fate, Missed, Stage, commits_own, raft
from jepsen.sim.node import Node
from kvstore.errors import EtcdError
from kvstore.node.request import Kind
from kvstore.pb import rpc_pb2
from raft import Message, MessageKind, Role

FROM_LEADER = (MessageKind.APPEND, MessageKind.HEARTBEAT)


def _left_alone(stage: Stage, leader: Node, most: int = 3) -> tuple[int, int]:
    """Cut a leader off and let it write some entries; their first index and its term."""
    first, term = raft(leader).last_index + 1, raft(leader).term
    stage.isolate(leader)
    for _ in range(stage.random.randint(1, most)):
        stage.put(leader)
        stage.run(0.0, 0.01)
    stage.until(lambda: leader.disk.holds(raft(leader).last_index, term), 0.8)
    return first, term


def figure_8(stage: Stage) -> None:
    """Figure 8 of the Raft paper: an entry of an earlier term reaches a majority, its leader
    falls with the entry of its own term on its way to its disk, and a rival of a term between the
    two, which has neither, is elected."""
    first, a, b = stage.roles()
    _, term = _left_alone(stage, first)
    stage.rule = lambda m: Fate.LOST if m.kind is MessageKind.APPEND else Fate.PASSES
    rival, third = stage.leader(a, b, term)
    between = raft(rival).term
    stage.until(lambda: rival.disk.holds(raft(rival).term_start, between))

    def stick(m: Message) -> Fate:
        """Its vote is on the disk: the next write is the leader's first entry."""
        if m.kind is MessageKind.VOTE and m.from_ == first.id:
            first.disk.stuck_until = stage.loop.now + 0.3
        return Fate.PASSES

    stage.isolate(rival)
    stage.connect(first, third)
    stage.rule = stick

    def replicated() -> bool:
        progress = raft(first).progress(third.id)
        return progress is not None and progress.match >= raft(first).term_start

    stage.until(lambda: raft(first).term > between and replicated())
    if first.disk.holds(raft(first).term_start, raft(first).term):
        raise Missed
    last, term = raft(first).last_index, raft(first).term
    stage.isolate(third)
    stage.crash(first)
    if first.disk.holds(last, term):  # its write was done without being reported
        raise Missed
    stage.connect(first, rival)
    stage.run(0.0, 0.05)
    stage.start(first)
    stage.leader(first, rival, term)
    stage.reached()


def overtaken_write(stage: Stage) -> None:
    """A write of entries that a later leader has replaced is done, that of their successors is
    not; the member falls between the two, after a commit of its backend."""
    old, a, b = stage.roles()
    term, index = raft(old).term, raft(old).last_index + 1
    stage.isolate(old)
    old.disk.stuck_until = done_at = stage.loop.now + 4.0
    for _ in range(stage.random.randint(1, 3)):
        stage.put(old)
    successor, _ = stage.leader(a, b, term)
    stage.until(lambda: commits_own(successor))
    stage.acknowledged(stage.put(successor))
    stage.connect(old, successor)
    stage.until(lambda: raft(old).log.term_at(index) != term, 4.0)
    if stage.loop.now >= done_at or raft(old).log.term_at(index) is None:
        raise Missed
    old.disk.stuck_until = done_at + 4.0
    stage.until(lambda: old.disk.holds(index, term))
    stage.run(1.2, 2.0)
    stage.crash(old)
    if not old.disk.holds(index, term):
        raise Missed
    stage.start(old)
    stage.reached()


def late_append(stage: Stage) -> None:
    """What a fallen leader had sent reaches a member that has acknowledged its successor's entry
    at the same index, and has not heard that it is committed; then the successor falls."""
    old, a, b = stage.roles()
    index, term = raft(old).last_index + 1, raft(old).term

    def hold(m: Message) -> Fate:
        late = m.kind is MessageKind.APPEND and m.from_ == old.id and m.entries
        return Fate.LATE if late else Fate.PASSES

    stage.rule = hold
    stage.put(old)
    stage.until(
        lambda: {m.to for m in stage.kept} == {a.id, b.id} and old.disk.holds(index, term), 0.8
    )
    stage.isolate(old)
    stage.rule = partial(_keep_secret, index)
    successor, other = stage.leader(a, b, term)
    stage.until(lambda: raft(successor).commit_index >= index)
    if raft(other).commit_index >= index or raft(other).last_index != index:
        raise Missed
    stage.isolate(successor)
    if stage.random.random() < 0.5:
        stage.crash(successor)
    for message in stage.kept:
        if message.to == other.id:
            stage.deliver(message)
    stage.run(0.01, 0.1)
    stage.connect(old, other)
    stage.leader(old, other, raft(other).term)
    stage.reached()


def _keep_secret(index: int, m: Message) -> Fate:
    """Nobody hears that an entry is committed."""
    return Fate.LOST if m.kind in FROM_LEADER and m.commit >= index else Fate.PASSES


def late_acknowledgement(stage: Stage) -> None:
    """A leader falls and loses an entry that a follower has acknowledged; it leads again, with
    another entry in its place, when the acknowledgement arrives."""
    leader, holder, other = stage.roles()
    index, term = raft(leader).last_index + 1, raft(leader).term

    def hold(m: Message) -> Fate:
        if m.kind is MessageKind.APPEND_RESPONSE and m.from_ == holder.id and m.index >= index:
            return Fate.LATE
        to_other = m.kind is MessageKind.APPEND and m.to == other.id
        return Fate.LOST if to_other else Fate.PASSES

    stage.rule = hold
    leader.disk.stuck_until = stage.loop.now + 0.9
    stage.put(leader)
    stage.until(lambda: bool(stage.kept), 0.5)
    stage.isolate(holder)
    stage.crash(leader)
    if leader.disk.holds(index, term):
        raise Missed
    leader.disk.stuck_until = 0.0
    stage.rule = lambda m: Fate.LOST if m.kind is MessageKind.APPEND else Fate.PASSES
    stage.start(leader)
    again, _ = stage.leader(leader, other, term)
    if again is not leader or raft(leader).term_start != index:
        raise Missed
    stage.until(lambda: leader.disk.holds(index, raft(leader).term), 0.8)
    stage.deliver(stage.kept[0])
    stage.run(0.05, 0.3)
    stage.reached()


def late_answers(stage: Stage) -> None:
    """Old answers to heartbeats keep a leader believing that it is one while its successor
    writes; it is asked for a read, and hears one more of them."""
    old, a, b = stage.roles()
    term = raft(old).term

    def double(m: Message) -> Fate:
        answers = m.kind is MessageKind.HEARTBEAT_RESPONSE and m.from_ == a.id
        return Fate.TWICE if answers else Fate.PASSES

    stage.rule = double
    stage.run(1.5, 2.0)
    stage.rule = lambda m: Fate.PASSES
    stage.isolate(old)

    def trickle() -> None:
        if stage.kept and old.up and old.member.is_leader:
            stage.deliver(stage.kept.pop(0))
            stage.loop.after(0.3, "another late answer", trickle)

    trickle()
    successor, _ = stage.leader(a, b, term)
    stage.acknowledged(stage.put(successor))
    if not (old.member.is_leader and raft(old).term == term and stage.kept):
        raise Missed
    stage.read(old)
    stage.run(0.01, 0.05)
    for message in stage.kept[:2]:
        stage.deliver(message)
    stage.run(0.05, 0.2)
    stage.reached()


def late_vote(stage: Stage) -> None:
    """A vote reaches its candidate in a later term, which has a leader already."""
    old, a, b = stage.roles()
    stage.isolate(old)

    def hold(m: Message) -> Fate:
        given = m.kind is MessageKind.VOTE_RESPONSE and not m.reject
        return Fate.LATE if given else Fate.PASSES

    stage.rule = hold
    stage.until(lambda: bool(stage.kept))
    vote = stage.kept[0]
    candidate, voter = (a, b) if vote.to == a.id else (b, a)
    stage.rule = lambda m: Fate.PASSES
    stage.isolate(candidate)
    stage.connect(old, voter)
    leader, _ = stage.leader(old, voter, vote.term)

    def rivals() -> bool:
        return raft(candidate).role is Role.CANDIDATE and raft(candidate).term == raft(leader).term

    stage.until(lambda: rivals() or raft(candidate).term > raft(leader).term)
    if not rivals():
        raise Missed
    stage.deliver(vote)
    stage.run(0.02, 0.1)
    stage.reached()


def forgotten_vote(stage: Stage) -> None:
    """A member crashes behind its vote for a leader; the next candidate of that term asks it."""
    old, a, b = stage.roles()
    term = raft(old).term

    def watch(m: Message) -> Fate:
        if m.kind is MessageKind.VOTE and m.from_ == old.id:
            return Fate.LATE
        return Fate.LOST if m.kind in FROM_LEADER and m.term > term else Fate.PASSES

    stage.rule = watch
    stage.isolate(old)
    leader, voter = stage.leader(a, b, term)
    stage.isolate(leader)
    stage.crash(voter)
    stage.until(lambda: bool(stage.kept))
    stage.start(voter)
    asked = [m for m in stage.kept if m.term == raft(leader).term and m.to == voter.id]
    if not asked or raft(voter).term != raft(leader).term:
        raise Missed
    stage.connect(old, voter)
    stage.deliver(asked[0])
    stage.run(0.05, 0.1)
    stage.reached()


def later_term(stage: Stage) -> None:
    """A member comes back with a later term than that of the leader, whom the others follow."""
    leader, away, _ = stage.roles()
    term = raft(leader).term
    stage.isolate(away)
    stage.until(lambda: raft(away).term > term)
    if raft(leader).term == term and leader.member.is_leader:
        stage.reached()


def early_read(stage: Stage) -> None:
    """A leader is asked for a read whose predecessor has told nobody of the last commit, while
    its own first entry reaches nobody."""
    old, a, b = stage.roles()
    index, term = raft(old).last_index + 1, raft(old).term
    stage.rule = partial(_keep_secret, index)
    stage.acknowledged(stage.put(old))
    stage.isolate(old)
    stage.rule = lambda m: Fate.LOST if m.kind is MessageKind.APPEND else Fate.PASSES
    leader, _ = stage.leader(a, b, term)
    if raft(leader).commit_index >= index:
        raise Missed
    stage.run(0.001, 0.05)
    stage.read(leader)
    stage.run(0.1, 0.4)
    stage.reached()


def shorter_end(stage: Stage) -> None:
    """A longer end of a log is replaced by a shorter one, and the member starts again."""
    old, a, b = stage.roles()
    index, term = _left_alone(stage, old, most=6)
    last = raft(old).last_index
    successor, _ = stage.leader(a, b, term)
    stage.connect(old, successor)
    stage.until(lambda: old.disk.holds(index, raft(successor).term))
    if not index <= raft(old).last_index < last:
        raise Missed
    stage.crash(old)
    stage.run(0.0, 0.05)
    stage.start(old)
    stage.reached()


def compactions_at_once(stage: Stage) -> None:
    """A member applies two compactions at once, of which the others had ended the first."""
    leader, away, _ = stage.roles()
    puts = [stage.put(leader, b"key %d" % (number % 5)) for number in range(60)]
    stage.until(lambda: all(puts) and not stage.checks.converged())
    stage.isolate(away)
    newest = leader.store.revision
    for revision in (newest - stage.random.randint(10, 20), newest - stage.random.randint(0, 8)):
        request = rpc_pb2.CompactionRequest(revision=revision)
        stage.acknowledged(stage.propose(leader, Kind.COMPACT, request.SerializeToString()))
        stage.until(lambda: leader.store.finished_compact_revision == leader.store.compact_revision)
    stage.connect(away, leader)
    stage.until(lambda: away.member.applied_index == leader.member.applied_index)
    stage.reached()


def _grant(stage: Stage, leader: Node) -> tuple[int, float]:
    """Grant a lease of 2 s, with a key; the lease, and when that was asked for."""
    lease, began = stage.random.getrandbits(62) + 1, stage.loop.now
    request = rpc_pb2.LeaseGrantRequest(ID=lease, TTL=2)
    stage.checks.lease_ends[lease] = began + 2.0
    stage.acknowledged(stage.propose(leader, Kind.LEASE_GRANT, request.SerializeToString()))
    stage.acknowledged(stage.put(leader, b"lease/%x" % lease, lease))
    return lease, began


def expiry_behind_a_pause(stage: Stage) -> None:
    """A leader sleeps until a lease has ended by its clock, which its successor has renewed; it
    hears of that one between its decision and what that leads to."""
    old, a, b = stage.roles()
    term = raft(old).term
    lease, _ = _grant(stage, old)
    stage.run(0.0, 0.3)
    stage.rule = lambda m: Fate.LATE if m.to == old.id else Fate.PASSES
    old.pause(4.0)
    wakes_at = old.process.paused_until
    successor, _ = stage.leader(a, b, term)
    stage.until(lambda: successor.lessor.is_primary)
    answers: list[int | EtcdError] = []
    stage.until(lambda: stage.loop.now > wakes_at - 0.5)
    asked = stage.loop.now
    successor.lease_keeper.renew(lease, answers.append)
    stage.until(lambda: bool(answers))
    if not isinstance(answers[0], int) or answers[0] <= 0:
        raise Missed
    stage.checks.lease_ends[lease] = asked + answers[0]
    stage.until(lambda: stage.loop.now > wakes_at - 0.02)
    news = [m for m in stage.kept if m.kind in FROM_LEADER and m.from_ == successor.id]
    if not news or not old.lessor.is_primary:
        raise Missed
    stage.rule = lambda m: Fate.PASSES

    def turn() -> None:
        """One of the event loop, in which the timer and the socket were both due."""
        old.member.tick(stage.loop.now)
        old.lease_keeper.tick()
        old.server.receive(news[-1])

    old.resume()
    old.enter(turn)
    stage.run(0.3, 0.6)
    stage.reached()


def expiry_in_a_vain_transfer(stage: Stage) -> None:
    """A lease ends while its leader hands over to a member that does not hear of it."""
    leader, target, _ = stage.roles()
    _, began = _grant(stage, leader)
    stage.rule = lambda m: Fate.LOST if m.kind is MessageKind.TIMEOUT_NOW else Fate.PASSES
    stage.until(lambda: stage.loop.now > began + stage.random.uniform(1.6, 1.9))
    leader.member.transfer_leadership(target.id)
    stage.until(lambda: stage.loop.now > began + 2.4)
    if not raft(leader).transferee:
        raise Missed
    stage.run(1.0, 1.5)
    stage.reached()
