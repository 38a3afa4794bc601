"""Membership changes (section 6): the change, its bytes, and the configuration that results.

Pure functions on `ConfState`. A change of one member is applied as such: the majorities before
and after overlap (thesis 4.1). Several at once go through a joint configuration (thesis 4.3).

Bytes of an encoded ConfChange, big-endian:

    0       u8   transition (Transition)
    1       u16  number of changes
    3       ...  for each change: u8 type (ConfChangeType), u64 member id
    then    ...  context, to the end
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

from raft.types import ConfState, RaftError

_HEAD = struct.Struct(">BH")
_CHANGE = struct.Struct(">BQ")

MAX_CHANGES = 1024
"""Most members one change may name."""


class ConfChangeType(IntEnum):
    """What happens to a member."""

    ADD_VOTER = 0
    ADD_LEARNER = 1
    REMOVE = 2


class Transition(IntEnum):
    """How to get to the new configuration."""

    AUTO = 0
    """Directly if one member changes, else like JOINT_IMPLICIT."""
    JOINT_IMPLICIT = 1
    """Through a joint configuration that the leader leaves by itself."""
    JOINT_EXPLICIT = 2
    """Through a joint configuration that stays until an empty ConfChange is proposed."""


@dataclass(slots=True, frozen=True)
class ConfChange:
    """Changes in order. No changes at all: leave the joint configuration."""

    changes: tuple[tuple[ConfChangeType, int], ...] = ()
    transition: Transition = Transition.AUTO
    context: bytes = b""
    """For the state machine; opaque here."""


class ConfChangeError(RaftError):
    """The change does not fit the configuration, which stays as it is."""


def encode(change: ConfChange) -> bytes:
    """Raises ValueError for an id outside 1..2**64-1 or more than MAX_CHANGES changes."""
    if len(change.changes) > MAX_CHANGES:
        raise ValueError(f"{len(change.changes)} changes are more than {MAX_CHANGES}")
    parts = [_HEAD.pack(change.transition, len(change.changes))]
    for kind, member in change.changes:
        if not 0 < member < 1 << 64:
            raise ValueError(f"member id {member} is not in 1..2**64-1")
        parts.append(_CHANGE.pack(kind, member))
    parts.append(change.context)
    return b"".join(parts)


def decode(data: bytes) -> ConfChange:
    """The inverse of `encode`. Raises ValueError for bytes that `encode` cannot have made."""
    if len(data) < _HEAD.size:
        raise ValueError("conf change is shorter than its header")
    transition, count = _HEAD.unpack_from(data)
    stop = _HEAD.size + count * _CHANGE.size
    if count > MAX_CHANGES or len(data) < stop:
        raise ValueError(f"conf change with {count} changes is damaged")
    changes = []
    for kind, member in _CHANGE.iter_unpack(data[_HEAD.size : stop]):
        if member == 0:
            raise ValueError("conf change names member id 0")
        changes.append((ConfChangeType(kind), member))
    return ConfChange(tuple(changes), Transition(transition), bytes(data[stop:]))


def changed(conf: ConfState, change: ConfChange) -> ConfState:
    """The configuration after `change`. Naming a member that is not there to remove, or is there
    already, is no error. Raises ConfChangeError if a joint configuration is in the way or
    missing, or if no voter would remain."""
    if not change.changes:
        return _leave_joint(conf)
    if conf.voters_outgoing:
        raise ConfChangeError("the configuration is joint")
    joint = change.transition is not Transition.AUTO or len(change.changes) > 1
    voters, learners, learners_next = set(conf.voters), set(conf.learners), set[int]()
    outgoing = set(voters) if joint else set[int]()
    for kind, member in change.changes:
        voters.discard(member)
        learners.discard(member)
        learners_next.discard(member)
        if kind is ConfChangeType.ADD_VOTER:
            voters.add(member)
        elif kind is ConfChangeType.ADD_LEARNER:
            # A member cannot be learner and (outgoing) voter at once: it has to wait.
            (learners_next if member in outgoing else learners).add(member)
    if not voters:
        raise ConfChangeError("no voter would remain")
    assert not (voters | outgoing) & learners and learners_next <= outgoing
    return ConfState(
        tuple(sorted(voters)),
        tuple(sorted(outgoing)),
        tuple(sorted(learners)),
        tuple(sorted(learners_next)),
        joint and change.transition is not Transition.JOINT_EXPLICIT,
    )


def _leave_joint(conf: ConfState) -> ConfState:
    if not conf.voters_outgoing:
        raise ConfChangeError("the configuration is not joint")
    learners = tuple(sorted({*conf.learners, *conf.learners_next}))
    return ConfState(voters=conf.voters, learners=learners)
