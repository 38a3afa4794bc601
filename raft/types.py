"""Values that cross the border of the raft package: entries, states, messages, errors.

No behaviour lives here. An entry is a bare tuple, not an object: logs hold hundreds of thousands
of them and the garbage collector need not walk tuples of ints and bytes; its index is implied by
its place in a list, which every function that takes a list of entries therefore names.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import NamedTuple

Entry = tuple[int, int, bytes]
"""(term, kind, data); kind is NORMAL or CONF_CHANGE."""

NORMAL = 0
"""Entry kind: `data` is opaque to raft. A new leader's first entry is (term, NORMAL, b"")."""
CONF_CHANGE = 1
"""Entry kind: `data` is `confchange.encode(ConfChange)`."""

ENTRY_OVERHEAD = 16
"""Bytes charged for an entry besides its data wherever a limit is in bytes, so that a limit in
bytes bounds the number of entries too."""

MAX_COMMITTED_BYTES = 1024 * 1024
"""Most bytes of committed entries one Ready hands out (always at least one entry)."""

FORCE_VOTE = 1
"""`Message.context` of a VOTE of a leadership transfer: it overrides the leader's lease."""
NO_ANSWER = 1
"""`Message.context` of an APPEND that only carries a commit index: success needs no answer."""


class Role(Enum):
    """What a member is in its current term (section 5.1; PRE_CANDIDATE: thesis 9.6)."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre_candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class HardState(NamedTuple):
    """What a member must not forget: written before messages that depend on it leave."""

    term: int = 0
    vote: int = 0
    commit: int = 0


class SoftState(NamedTuple):
    """What a member may forget: who leads (0: unknown) and its own role."""

    leader: int
    role: Role


class ConfState(NamedTuple):
    """A configuration; every field but the last is a sorted tuple of member ids.

    `voters_outgoing` is not empty exactly while the configuration is joint (section 6):
    decisions then need a majority of `voters` and one of `voters_outgoing`. `learners_next` are
    voters of the outgoing half that become learners when the joint configuration is left.
    """

    voters: tuple[int, ...] = ()
    voters_outgoing: tuple[int, ...] = ()
    learners: tuple[int, ...] = ()
    learners_next: tuple[int, ...] = ()
    auto_leave: bool = False


class SnapshotMeta(NamedTuple):
    """The last entry a snapshot covers and the configuration as of it."""

    index: int = 0  # type: ignore[assignment]  # hides tuple.index, which nobody wants here
    term: int = 0
    conf_state: ConfState = ConfState()


class MessageKind(IntEnum):
    """Kinds of message between members; the numbers are the peer protocol's."""

    APPEND = 0
    APPEND_RESPONSE = 1
    HEARTBEAT = 2
    HEARTBEAT_RESPONSE = 3
    VOTE = 4
    VOTE_RESPONSE = 5
    PRE_VOTE = 6
    PRE_VOTE_RESPONSE = 7
    SNAPSHOT = 8
    PROPOSE = 9
    READ_INDEX = 10
    READ_INDEX_RESPONSE = 11
    TIMEOUT_NOW = 12
    TRANSFER_LEADER = 13


@dataclass(slots=True)
class Message:
    """One message between two members. Fields that a kind does not name are zero.

    APPEND: `index`/`log_term` are the previous entry's, `entries` start at `index + 1`, `commit`
      is the leader's, `context` NO_ANSWER if success needs no answer.
    APPEND_RESPONSE: accepted: `index` is the last entry known to match. `reject`: `index` is the
      refused previous index, `reject_hint`/`log_term` the last entry that could match.
    HEARTBEAT, HEARTBEAT_RESPONSE: `commit` (never past the receiver's match), `context` the
      latest ReadIndex round, echoed.
    VOTE, PRE_VOTE: `index`/`log_term` are the candidate's last entry's, `context` FORCE_VOTE in a
      transfer. PRE_VOTE and its granting answer carry the term that would be campaigned for.
    VOTE_RESPONSE, PRE_VOTE_RESPONSE: `commit`/`log_term` are the answerer's last committed entry.
    SNAPSHOT: `snapshot`.
    PROPOSE: `entries` (terms ignored). READ_INDEX(_RESPONSE): `context`, `index` the read index.
    TRANSFER_LEADER: `context` is the target. These three requests carry term 0: they hold in any.
    """

    kind: MessageKind
    to: int
    from_: int
    term: int = 0
    log_term: int = 0
    index: int = 0
    entries: Sequence[Entry] = ()
    commit: int = 0
    reject: bool = False
    reject_hint: int = 0
    context: int = 0
    snapshot: SnapshotMeta | None = None


@dataclass(slots=True, frozen=True)
class Config:
    """Settings of one member. Raises ValueError naming the field that is out of range."""

    id: int
    """This member's id, 1 to 2**64 - 1."""
    election_tick: int = 10
    """Ticks without a leader before a campaign; the real time-out is drawn from
    [election_tick, 2 * election_tick). Must exceed heartbeat_tick."""
    heartbeat_tick: int = 1
    """Ticks between heartbeats, at least 1."""
    max_message_bytes: int = 1024 * 1024
    """Most bytes of entries in an APPEND or PROPOSE (always at least one entry)."""
    max_inflight_messages: int = 256
    """Most APPENDs with entries on their way to one follower without an answer."""
    max_uncommitted_bytes: int = 1024 * 1024 * 1024
    """Most bytes of entries a leader holds uncommitted, or a follower holds to forward, before
    proposals are refused (one proposal is accepted whatever its size if there are none)."""
    pre_vote: bool = True
    """Ask before campaigning (thesis 9.6), so that a returning member disturbs nobody."""
    check_quorum: bool = True
    """A leader that hears no quorum steps down, and followers of a live leader ignore
    candidates (thesis 6.2 and 4.2.3)."""

    def __post_init__(self) -> None:
        if not 0 < self.id < 1 << 64:
            raise ValueError(f"id {self.id} is not in 1..2**64-1")
        if self.heartbeat_tick < 1:
            raise ValueError(f"heartbeat_tick {self.heartbeat_tick} is less than 1")
        if self.election_tick <= self.heartbeat_tick:
            raise ValueError(
                f"election_tick {self.election_tick} must exceed"
                f" heartbeat_tick {self.heartbeat_tick}"
            )
        for name in ("max_message_bytes", "max_inflight_messages", "max_uncommitted_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} is less than 1")


@dataclass(slots=True)
class Ready:
    """Effects to carry out; taking it is owning it. The lists are shared: do not change them.

    The receiver, in order: hands `snapshot`, `entries` and `hard_state` to its log under `token`
    (if > 0) and later calls `persisted(token)`; sends `messages` at once and `messages_after`
    once `token` (the previous token if it is 0) is durable; applies `committed`, calling
    `apply_conf_change` for conf changes, then `applied_to`, before it steps the next message.
    """

    token: int = 0
    """> 0 if something must become durable; tokens ascend by one."""
    hard_state: HardState | None = None
    """Set only together with a token. A changed commit index alone makes no batch."""
    first_index: int = 0
    """Index of entries[0]; whatever the log holds from there on is replaced."""
    entries: list[Entry] = field(default_factory=list)
    snapshot: SnapshotMeta | None = None
    """Install this in place of the whole log and state, before `entries`."""
    messages: list[Message] = field(default_factory=list)
    messages_after: list[Message] = field(default_factory=list)
    committed_first: int = 0
    """Index of committed[0]."""
    committed: list[Entry] = field(default_factory=list)
    """Committed and durable here, each handed out once."""
    read_states: list[tuple[int, int]] = field(default_factory=list)
    """(context of read_index, index): the read may be served once that index is applied."""
    soft_state: SoftState | None = None
    """Set when leader or role changed since the last Ready."""


class DropReason(Enum):
    """Why a proposal or transfer was refused."""

    NO_LEADER = "no leader"
    TRANSFERRING = "leadership transfer in progress"
    UNCOMMITTED_LIMIT = "too many uncommitted proposals"
    CONF_CHANGE_PENDING = "a configuration change is pending, or the leader is new"
    CONF_CHANGE_INVALID = "configuration change does not fit the configuration"
    NOT_VOTER = "transfer target is not a voter"


class RaftError(Exception):
    """Base of what this package raises to its caller."""


class ProposalDropped(RaftError):
    """The proposal (all of it) or transfer was refused; `reason` says why."""

    def __init__(self, reason: DropReason, detail: str = "") -> None:
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value)
        self.reason = reason


class ReadIndexDropped(RaftError):
    """There is no leader to ask for a read index, or too many reads wait."""
