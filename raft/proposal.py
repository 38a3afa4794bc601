"""Proposals: accepted or refused at the leader, gathered and forwarded at a follower.

Functions on a `Raft`. A batch is accepted whole or refused whole. A follower cannot know whether
the leader will accept what it forwards: a forwarded proposal that is refused, or whose leader
steps down, is simply lost, and whoever proposed it finds out by waiting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raft import confchange
from raft.confchange import ConfChange, ConfChangeError
from raft.types import (
    CONF_CHANGE,
    ENTRY_OVERHEAD,
    NORMAL,
    DropReason,
    Entry,
    Message,
    MessageKind,
    ProposalDropped,
    Role,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raft.raft import Raft


def propose(r: Raft, datas: Sequence[bytes]) -> None:
    """See `Raft.propose`."""
    _check_proposable(r)
    if r.role is Role.LEADER:
        _append(r, datas)
        return
    size = _size(datas)
    if not r.forwarded_entries:
        r.forwarded_bytes = 0
    elif r.forwarded_bytes + size > r.config.max_uncommitted_bytes:
        raise ProposalDropped(DropReason.UNCOMMITTED_LIMIT)
    r.forwarded_bytes += size
    r.forwarded_entries.extend([(0, NORMAL, data) for data in datas])


def propose_conf_change(r: Raft, change: ConfChange) -> None:
    """See `Raft.propose_conf_change`."""
    _check_proposable(r)
    data = confchange.encode(change)
    if r.role is Role.LEADER:
        _append_conf_change(r, change, data)
    else:
        _forward_entries(r, [(0, CONF_CHANGE, data)])


def _check_proposable(r: Raft) -> None:
    if not r.leader:
        raise ProposalDropped(DropReason.NO_LEADER)
    if r.transferee:
        raise ProposalDropped(DropReason.TRANSFERRING)


def _size(datas: Sequence[bytes]) -> int:
    return sum(map(len, datas)) + ENTRY_OVERHEAD * len(datas)


def _append(r: Raft, datas: Sequence[bytes]) -> None:
    log = r.log
    if log.last_index > log.commit_index:
        size = log.uncommitted_bytes() + _size(datas)
        if size > r.config.max_uncommitted_bytes:
            raise ProposalDropped(DropReason.UNCOMMITTED_LIMIT)
    term = r.term
    log.append([(term, NORMAL, data) for data in datas])
    r.appends_due = True


def _append_conf_change(r: Raft, change: ConfChange, data: bytes) -> None:
    log = r.log
    if log.applied_index < r.pending_conf_index or log.commit_index < r.term_start:
        raise ProposalDropped(DropReason.CONF_CHANGE_PENDING)
    try:
        confchange.changed(r.tracker.conf, change)
    except ConfChangeError as error:
        raise ProposalDropped(DropReason.CONF_CHANGE_INVALID, str(error)) from error
    r.pending_conf_index = log.append([(r.term, CONF_CHANGE, data)])
    r.appends_due = True


def joint_leave_due(r: Raft) -> bool:
    """Whether the leader should now end a joint configuration that ends by itself."""
    return (
        r.role is Role.LEADER
        and r.tracker.conf.auto_leave
        and r.log.applied_index >= r.pending_conf_index
        and r.log.commit_index >= r.term_start
    )


def leave_joint(r: Raft) -> None:
    """Append the entry that ends the joint configuration."""
    change = ConfChange()
    _append_conf_change(r, change, confchange.encode(change))


def forward(r: Raft) -> None:
    """A follower passes on what was proposed here, in messages of bounded size."""
    entries, r.forwarded_entries = r.forwarded_entries, []
    start = size = 0
    for stop, entry in enumerate(entries):
        cost = len(entry[2]) + ENTRY_OVERHEAD
        if stop > start and size + cost > r.config.max_message_bytes:
            _forward_entries(r, entries[start:stop])
            start, size = stop, 0
        size += cost
    _forward_entries(r, entries[start:])


def _forward_entries(r: Raft, entries: list[Entry]) -> None:
    r.messages.append(Message(MessageKind.PROPOSE, r.leader, r.id, entries=entries))


def handle_propose(r: Raft, m: Message) -> None:
    """A member of the configuration forwards proposals; what is refused is dropped."""
    if r.role is not Role.LEADER or m.from_ not in r.tracker.progress or r.transferee:
        return
    try:
        if all(entry[1] == NORMAL for entry in m.entries):
            _append(r, [entry[2] for entry in m.entries])
        elif len(m.entries) == 1 and m.entries[0][1] == CONF_CHANGE:
            data = m.entries[0][2]
            _append_conf_change(r, confchange.decode(data), data)
    except (ProposalDropped, ValueError):
        return
