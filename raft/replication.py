"""Log replication: APPENDs, heartbeats, snapshots, their answers, and what they commit.

Functions on a `Raft`. APPENDs are built in `send_appends`, when a Ready is taken, and not when
something is proposed: however many proposals and answers came in, each follower gets what is new
in one message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raft import election, read_only
from raft.tracker import Progress, ProgressState
from raft.types import (
    NO_ANSWER,
    Entry,
    Message,
    MessageKind,
    Role,
    SnapshotMeta,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raft.raft import Raft


# -- leader: sending -----------------------------------------------------------------------------


def send_appends(r: Raft) -> None:
    """Send every follower what it lacks, as far as its window allows."""
    r.appends_due = False
    progress = r.tracker.progress
    for peer in r.tracker.peers:
        _send_appends_to(r, peer, progress[peer])


def _send_appends_to(r: Raft, peer: int, pr: Progress) -> None:
    log = r.log
    limit = r.config.max_inflight_messages
    while not pr.is_paused(limit):
        prev = pr.next - 1
        prev_term = log.term_at(prev)
        if prev_term is None:
            _send_snapshot(r, peer, pr)
            return
        entries: Sequence[Entry] = ()
        context = 0
        if prev < log.last_index and len(pr.inflight) < limit:
            entries = log.slice(pr.next, log.last_index + 1, r.config.max_message_bytes)
        elif not pr.must_ask:
            if pr.sent_commit >= min(log.commit_index, prev):
                return
            if pr.state is ProgressState.REPLICATE:
                context = NO_ANSWER
        r.messages.append(
            Message(
                MessageKind.APPEND,
                peer,
                r.id,
                r.term,
                prev_term,
                prev,
                entries,
                log.commit_index,
                context=context,
            )
        )
        pr.sent(len(entries))
        pr.sent_commit = min(log.commit_index, prev + len(entries))


def _send_snapshot(r: Raft, peer: int, pr: Progress) -> None:
    """The follower needs entries that are compacted away (section 7)."""
    if not pr.recent_active:
        return  # A snapshot is dear: wait until the follower shows signs of life.
    index = r.log.applied_index
    term = r.log.term_at(index)
    assert term is not None, "the log is never compacted past what is applied"
    pr.become_snapshot(index)
    meta = SnapshotMeta(index, term, r.tracker.conf)
    r.messages.append(Message(MessageKind.SNAPSHOT, peer, r.id, r.term, snapshot=meta))


def send_heartbeats(r: Raft) -> None:
    """The periodic heartbeat, to everyone. It repeats the last ReadIndex round's number."""
    for peer in r.tracker.peers:
        pr = r.tracker.progress[peer]
        pr.heartbeat_due = True
        _send_heartbeat(r, peer, pr)


def _send_heartbeat(r: Raft, peer: int, pr: Progress) -> None:
    commit = min(pr.match, r.log.commit_index)
    r.messages.append(
        Message(
            MessageKind.HEARTBEAT,
            peer,
            r.id,
            r.term,
            commit=commit,
            context=r.read_only.last_round,
        )
    )


# -- leader: answers -----------------------------------------------------------------------------


def handle_append_response(r: Raft, m: Message) -> None:
    """A follower took entries, or refused them."""
    pr = r.tracker.progress.get(m.from_)
    if r.role is not Role.LEADER or pr is None or m.from_ == r.id:
        return
    pr.recent_active = True
    if m.reject:
        hint = r.log.find_conflict_by_term(m.reject_hint, m.log_term)
        if pr.rejected(m.index, hint):
            r.appends_due = True
        return
    if m.index > r.log.last_index:
        return  # Nothing that this leader sent.
    news = pr.accepted(m.index)
    if pr.state is ProgressState.PROBE:
        if m.index == pr.match:
            pr.become_replicate()
    elif pr.state is ProgressState.SNAPSHOT and pr.match >= r.log.snapshot_index:
        pr.become_replicate()
    if news:
        maybe_commit(r, m.index)
        if m.from_ == r.transferee and pr.match == r.log.last_index:
            election.send_timeout_now(r)
    r.appends_due = True


def handle_heartbeat_response(r: Raft, m: Message) -> None:
    """A follower is alive, and knows us as leader as of ReadIndex round `context`."""
    pr = r.tracker.progress.get(m.from_)
    if r.role is not Role.LEADER or pr is None:
        return
    pr.recent_active = True
    pr.heartbeat_answered()
    if not pr.is_paused(r.config.max_inflight_messages):
        r.appends_due = True
    if r.read_only.acknowledge(m.from_, m.context):
        read_only.confirm_reads(r)


def maybe_commit(r: Raft, index: int) -> None:
    """Someone's match reached `index`: commit what a quorum holds, entries of this term only
    (section 5.4.2). `index` is a hint that spares the count when it cannot matter."""
    log = r.log
    if index <= log.commit_index or index < r.term_start:
        return
    committed = r.tracker.committed()
    if committed > log.commit_index and committed >= r.term_start:
        log.commit_to(committed)
        r.appends_due = True


def report_unreachable(r: Raft, peer: int) -> None:
    """Messages to `peer` were probably lost: stop streaming."""
    pr = r.tracker.progress.get(peer)
    if r.role is Role.LEADER and pr is not None and pr.state is ProgressState.REPLICATE:
        pr.become_probe(pr.match + 1)
        pr.probe_sent = True  # Until a heartbeat is answered.


def report_snapshot(r: Raft, peer: int, *, ok: bool) -> None:
    """The snapshot for `peer` was sent, or was not: probe from where that leaves it."""
    pr = r.tracker.progress.get(peer)
    if r.role is not Role.LEADER or pr is None or pr.state is not ProgressState.SNAPSHOT:
        return
    pr.become_probe(max(pr.match, pr.pending_snapshot if ok else 0) + 1)
    pr.probe_sent = True  # Until it has installed it, or a heartbeat is answered.


# -- leader: reads -------------------------------------------------------------------------------


def start_read_round(r: Raft) -> None:
    """Send heartbeats for all reads that wait, at the commit index of now (thesis 6.4)."""
    r.read_only.start_round(r.id, r.log.commit_index)
    for voter in r.tracker.voters():
        if voter != r.id:
            _send_heartbeat(r, voter, r.tracker.progress[voter])
    read_only.confirm_reads(r)


# -- follower ------------------------------------------------------------------------------------


def _follow(r: Raft, m: Message) -> bool:
    """A message only a leader of this term sends. False if that cannot be its leader."""
    if r.role is Role.LEADER or r.leader not in (0, m.from_):
        return False
    if r.role is not Role.FOLLOWER:
        election.become_follower(r, r.term, m.from_)
    r.leader = m.from_
    r.election_elapsed = 0
    return True


def handle_append(r: Raft, m: Message) -> None:
    """Entries, or a probe, or a commit index (section 5.3). Acknowledged once durable."""
    log = r.log
    entries = m.entries
    prev, prev_term = m.index, m.log_term
    last_term = entries[-1][0] if entries else prev_term
    if prev < 0 or not prev_term <= last_term <= m.term or not _follow(r, m):
        return
    if prev < log.commit_index:
        # What is committed here is equal there: look only at what comes after.
        skip = log.commit_index - prev
        if skip >= len(entries):
            _acknowledge(r, log.commit_index)
            return
        prev, prev_term = log.commit_index, entries[skip - 1][0]
        entries = entries[skip:]
    if not log.matches(prev, prev_term):
        if prev > log.commit_index:
            _reject(r, m)
        return  # A conflict with what is committed is never given way to.
    last_new = prev + len(entries)
    if entries:
        offset = log.find_conflict(prev + 1, entries)
        if offset < len(entries):
            if prev + 1 + offset <= log.last_index:
                log.truncate(prev + 1 + offset)
            log.append(entries[offset:] if offset else entries)
    if m.commit > log.commit_index:
        log.commit_to(max(log.commit_index, min(m.commit, last_new)))
    if m.context != NO_ANSWER or entries:
        _acknowledge(r, last_new)


def _acknowledge(r: Raft, index: int) -> None:
    r.messages_after.append(
        Message(MessageKind.APPEND_RESPONSE, r.leader, r.id, r.term, index=index)
    )


def _reject(r: Raft, m: Message) -> None:
    """Refuse, naming the last entry that can match: one round trip for each term in dispute at
    most (section 5.3, end). What is committed always matches."""
    log = r.log
    hint = log.find_conflict_by_term(min(m.index, log.last_index), m.log_term)
    hint = max(hint, log.commit_index)
    hint_term = log.term_at(hint)
    assert hint_term is not None and hint <= m.index, (hint, m.index)
    r.messages.append(
        Message(
            MessageKind.APPEND_RESPONSE,
            m.from_,
            r.id,
            r.term,
            log_term=hint_term,
            index=m.index,
            reject=True,
            reject_hint=hint,
        )
    )


def handle_heartbeat(r: Raft, m: Message) -> None:
    """A sign of life of the leader, with a commit index that this member has acknowledged."""
    if not _follow(r, m):
        return
    if r.log.commit_index < m.commit <= r.log.last_index:
        r.log.commit_to(m.commit)
    r.messages.append(
        Message(MessageKind.HEARTBEAT_RESPONSE, m.from_, r.id, r.term, context=m.context)
    )


def handle_snapshot(r: Raft, m: Message) -> None:
    """A snapshot replaces the log, unless the log holds its last entry already (section 7) or
    the snapshot's configuration does not know this member."""
    meta = m.snapshot
    if meta is None or not 0 < meta.term <= m.term or not _follow(r, m):
        return
    log = r.log
    conf = meta.conf_state
    if meta.index > log.commit_index and not log.matches(meta.index, meta.term):
        if not conf.voters or r.id not in {*conf.voters, *conf.voters_outgoing, *conf.learners}:
            return
        log.restore(meta)
        r.tracker.set_conf(conf, r.id, log.last_index + 1)
        r.pending_snapshot = meta
    elif meta.index > log.commit_index:
        log.commit_to(meta.index)
    _acknowledge(r, log.commit_index)
