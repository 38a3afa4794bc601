"""What a leader knows of each member's log, and what its configuration makes of it.

Progress states: PROBE sends one APPEND at a time until the point where the logs agree is found;
REPLICATE streams, advancing `next` when it sends and not when it is answered; SNAPSHOT sends
nothing until the snapshot was installed or failed. Nothing here sends: replication.py does.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from raft.quorum import VoteResult, joint_active, joint_vote, majority_value
from raft.types import ConfState


class ProgressState(Enum):
    """How entries are sent to a member."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


@dataclass(slots=True)
class Progress:
    """A leader's view of one member's log. Invariant: 0 <= match < next."""

    match: int
    """The highest index known to be durable there and equal to ours."""
    next: int
    """The next index to send."""
    state: ProgressState = ProgressState.PROBE
    recent_active: bool = False
    """Heard of since the last quorum check (thesis 6.2)."""
    probe_sent: bool = False
    """PROBE: an APPEND is under way, wait for its answer or a heartbeat's."""
    must_ask: bool = False
    """Send an APPEND even without entries: answers may have been lost."""
    heartbeat_due: bool = False
    """The next heartbeat answer may trigger a retry: at most one for each heartbeat tick, not one
    for each ReadIndex round."""
    acked: bool = False
    """Something was acknowledged since the last heartbeat tick that was answered."""
    sent_commit: int = 0
    """The highest commit index sent."""
    pending_snapshot: int = 0
    """SNAPSHOT: the index asked for."""
    inflight: deque[int] = field(default_factory=deque)
    """REPLICATE: the last index of each unanswered APPEND, ascending."""

    def is_paused(self, max_inflight: int) -> bool:
        """Whether nothing more may be sent for now."""
        if self.state is ProgressState.REPLICATE:
            return len(self.inflight) >= max_inflight and not self.must_ask
        return self.state is ProgressState.SNAPSHOT or self.probe_sent

    def become_probe(self, next_index: int) -> None:
        """Look for the point of agreement from `next_index` on."""
        assert next_index > self.match
        self.state = ProgressState.PROBE
        self.next = next_index
        self.probe_sent = self.must_ask = False
        self.pending_snapshot = 0
        self.inflight.clear()

    def become_replicate(self) -> None:
        """Stream from match + 1 on."""
        self.become_probe(self.match + 1)
        self.state = ProgressState.REPLICATE

    def become_snapshot(self, index: int) -> None:
        """Wait for a snapshot that covers `index`."""
        self.become_probe(self.match + 1)
        self.state = ProgressState.SNAPSHOT
        self.pending_snapshot = index

    def sent(self, count: int) -> None:
        """An APPEND with `count` entries from `next` on has left."""
        self.must_ask = False
        if self.state is ProgressState.PROBE:
            self.probe_sent = True
        elif count:
            self.next += count
            self.inflight.append(self.next - 1)
        assert self.match < self.next

    def accepted(self, index: int) -> bool:
        """Everything up to `index` is there. Returns whether that is news."""
        inflight = self.inflight
        while inflight and inflight[0] <= index:
            inflight.popleft()
        if index <= self.match:
            return False
        self.acked = True
        self.match = index
        if index >= self.next:
            self.next = index + 1
        return True

    def rejected(self, index: int, hint: int) -> bool:
        """The member refused an APPEND after `index`, and can agree at most up to `hint`.
        Returns False for an answer that is out of date."""
        if self.state is ProgressState.SNAPSHOT or index <= self.match:
            return False
        if self.state is ProgressState.PROBE and index != self.next - 1:
            return False
        if index >= self.next:
            return False
        self.become_probe(max(self.match + 1, min(index, hint + 1)))
        return True

    def heartbeat_answered(self) -> None:
        """The member lives: send again what has had no answer for a heartbeat interval."""
        if not self.heartbeat_due:
            return
        self.heartbeat_due = False
        self.probe_sent = False
        if not self.acked and self.match < self.next - 1:
            self.must_ask = True
        self.acked = False


class Tracker:
    """The configuration and the progress of everyone in it."""

    __slots__ = ("conf", "peers", "progress")

    def __init__(self) -> None:
        self.conf = ConfState()
        self.progress: dict[int, Progress] = {}
        self.peers: tuple[int, ...] = ()

    def set_conf(self, conf: ConfState, own_id: int, next_index: int) -> None:
        """Change the configuration; newcomers start probing at `next_index`, and count as heard
        of, lest a quorum check right after the change depose a leader for nothing."""
        members = sorted({*conf.voters, *conf.voters_outgoing, *conf.learners})
        old = self.progress
        self.progress = {
            member: old.get(member) or Progress(0, next_index, recent_active=True)
            for member in members
        }
        self.conf = conf
        self.peers = tuple(member for member in members if member != own_id)

    def reset(self, next_index: int) -> None:
        """Forget everything about everyone's log: a new term has begun."""
        self.progress = {member: Progress(0, next_index) for member in self.progress}

    def is_voter(self, member: int) -> bool:
        """Whether the member's vote counts, in either half of a joint configuration."""
        return member in self.conf.voters or member in self.conf.voters_outgoing

    def voters(self) -> list[int]:
        """Everyone whose vote counts, ascending."""
        return sorted({*self.conf.voters, *self.conf.voters_outgoing})

    def committed(self) -> int:
        """The highest index durable on a quorum."""
        progress = self.progress
        conf = self.conf
        index = majority_value([progress[voter].match for voter in conf.voters])
        if conf.voters_outgoing:
            outgoing = [progress[voter].match for voter in conf.voters_outgoing]
            index = min(index, majority_value(outgoing))
        return index

    def quorum_value(self, values: Mapping[int, int]) -> int:
        """The highest number that a quorum has reached in `values` (0 where absent)."""
        conf = self.conf
        value = majority_value([values.get(voter, 0) for voter in conf.voters])
        if conf.voters_outgoing:
            outgoing = [values.get(voter, 0) for voter in conf.voters_outgoing]
            value = min(value, majority_value(outgoing))
        return value

    def vote_result(self, votes: Mapping[int, bool]) -> VoteResult:
        """Where a poll stands."""
        return joint_vote(self.conf.voters, self.conf.voters_outgoing, votes)

    def quorum_active(self) -> bool:
        """Whether a quorum was heard of since the last call of `clear_active`."""
        active = (member for member, pr in self.progress.items() if pr.recent_active)
        return joint_active(self.conf.voters, self.conf.voters_outgoing, active)

    def clear_active(self, own_id: int) -> None:
        """Begin a new interval for `quorum_active`."""
        for member, pr in self.progress.items():
            pr.recent_active = member == own_id
