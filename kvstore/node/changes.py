"""Changes of who votes, on their way into the log: one at a time, in the order of their arrival.

Raft takes one conf change at a time and refuses the next until the first is applied; what a
follower forwards it may lose. A client must get its success or an error all the same, so the leader
lines changes up here, and the member that was asked sends its own again until one of the copies is
applied: a second copy finds the work done, or the id barred, and changes nothing.

The queue takes time as a parameter and never waits; `Member` drives it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kvstore.errors import (
    MEMBER_NOT_ENOUGH_STARTED,
    REQUEST_TOO_MANY_REQUESTS,
    TIMEOUT,
    EtcdError,
)
from kvstore.membership import changes
from kvstore.node.request import HEADER, HEADER_SIZE, Kind
from raft import (
    ConfChange,
    ConfChangeType,
    DropReason,
    ProposalDropped,
    Raft,
    Role,
    decode_conf_change,
)

MAX_WAITING = 64
"""Changes asked of this member, or forwarded to it as leader, that may wait; more are refused."""
RETRY_S = 1.0
"""A forwarded change that is not applied after this time is sent again."""

Done = Callable[[bytes | EtcdError], None]


@dataclass(slots=True)
class _Own:
    """A change asked of this member."""

    change: ConfChange
    done: Done
    sent_at: float | None = None
    """When it was last handed to Raft or to the leader; None: never in this leader's time."""
    ever_sent: bool = False


def build(kind: int, request_id: int, body: bytes) -> ConfChange:
    """Return the conf change of a member's addition, removal or promotion.

    Raises ValueError, KeyError or TypeError for anything else.
    """
    if kind == Kind.MEMBER_ADD:
        info, _ = changes.decode_add(body)
        what = ConfChangeType.ADD_LEARNER if info.is_learner else ConfChangeType.ADD_VOTER
        one = (what, info.id)
    elif kind == Kind.MEMBER_REMOVE:
        one = (ConfChangeType.REMOVE, changes.decode_id(body))
    elif kind == Kind.MEMBER_PROMOTE:
        one = (ConfChangeType.ADD_VOTER, changes.decode_id(body))
    else:
        raise ValueError(f"request kind {kind} changes no voters")
    if not 0 < one[1] < 1 << 64:
        raise ValueError(f"member id {one[1]} is not in 1..2**64-1")
    return ConfChange((one,), context=HEADER.pack(kind, request_id) + body)


def read(data: bytes) -> ConfChange | None:
    """Decode a forwarded conf change; None unless it is exactly what `build` makes."""
    try:
        change = decode_conf_change(data)
        kind, request_id = HEADER.unpack_from(change.context)
        built = build(kind, request_id, change.context[HEADER_SIZE:])
    except Exception:
        return None
    return change if built == change else None


def request_id_of(change: ConfChange) -> int:
    """Return the id under which the asker of a change waits."""
    _, request_id = HEADER.unpack_from(change.context)
    return int(request_id)


class ChangeQueue:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._own: dict[int, _Own] = {}
        self._line: dict[int, ConfChange] = {}
        """The leader's: what waits to be proposed, and first what is."""
        self._proposed = (0, 0)
        """Term and request id of the change that this leader has in the log, not applied yet."""

    def __len__(self) -> int:
        return len(self._own)

    def add(self, change: ConfChange, done: Done) -> int:
        """Queue a change asked of this member; return its request id.

        Raises REQUEST_TOO_MANY_REQUESTS.
        """
        if len(self._own) >= MAX_WAITING:
            raise REQUEST_TOO_MANY_REQUESTS
        request_id = request_id_of(change)
        self._own[request_id] = _Own(change, done)
        return request_id

    def forget(self, request_id: int) -> None:
        """Whoever asked has gone: send it no more. It may be done all the same."""
        self._own.pop(request_id, None)
        if request_id != self._proposed[1]:
            self._line.pop(request_id, None)

    def forwarded(self, change: ConfChange) -> None:
        """Line up, as leader, what another member forwards; too many are dropped, to come again."""
        if len(self._line) < MAX_WAITING:
            self._line.setdefault(request_id_of(change), change)

    def start(self, raft: Raft, now: float) -> None:
        """Hand on what can be: to Raft on the leader, to the leader elsewhere."""
        if not (self._own or self._line) or not raft.leader:
            return
        if raft.role is Role.LEADER:
            self._start_as_leader(raft, now)
            return
        for own in list(self._own.values()):
            if own.sent_at is None or now - own.sent_at >= RETRY_S:
                try:
                    raft.propose_conf_change(own.change)
                except ProposalDropped:
                    return
                own.sent_at, own.ever_sent = now, True

    def _start_as_leader(self, raft: Raft, now: float) -> None:
        for request_id, own in self._own.items():
            if own.sent_at is None:
                own.sent_at = now
                self._line.setdefault(request_id, own.change)
        while self._line and self._proposed[0] != raft.term:
            request_id, change = next(iter(self._line.items()))
            try:
                raft.propose_conf_change(change)
            except ProposalDropped as dropped:
                if dropped.reason is not DropReason.CONF_CHANGE_INVALID:
                    return  # later: another change is under way, or the leadership is
                # Only the removal of the last voter does not fit; another asker finds out there.
                del self._line[request_id]
                self.finish(request_id, MEMBER_NOT_ENOUGH_STARTED)
                continue
            self._proposed = (raft.term, request_id)
            if request_id in self._own:
                self._own[request_id].ever_sent = True

    def applied(self, request_id: int) -> Done | None:
        """A change is applied, or was refused at its turn: return who waits for it here."""
        self._line.pop(request_id, None)
        if request_id == self._proposed[1]:
            self._proposed = (0, 0)
        own = self._own.pop(request_id, None)
        return own.done if own is not None else None

    def finish(self, request_id: int, error: EtcdError) -> None:
        """Fail one of this member's own changes."""
        own = self._own.pop(request_id, None)
        if own is not None:
            own.done(error)

    def leader_changed(self) -> None:
        """Begin again with the new leader; what was forwarded here comes to it by itself."""
        self._line.clear()
        self._proposed = (0, 0)
        for own in self._own.values():
            own.sent_at = None

    def swallowed(self) -> None:
        """A snapshot was installed. What has been sent may be in it, and no entry will say so."""
        for request_id in [i for i, own in self._own.items() if own.ever_sent]:
            self.finish(request_id, TIMEOUT)

    def stop(self, error: EtcdError) -> None:
        """Fail everything."""
        for request_id in list(self._own):
            self.finish(request_id, error)
