"""Where a new cluster's log begins: at index 1, behind the configuration that the flags say.

The members of a new cluster all start as if they had applied one entry that made them voters. That
entry is in nobody's log, so a member that joins later, whose log is empty, cannot be fed from the
first entry on: it gets a snapshot, which tells it the configuration.
"""

from __future__ import annotations

from collections.abc import Iterable

from raft import ConfState, HardState, SnapshotMeta

FIRST_INDEX = 1
FIRST_TERM = 1
FIRST_HARD_STATE = HardState(term=FIRST_TERM, vote=0, commit=FIRST_INDEX)


def first_position(voters: Iterable[int]) -> SnapshotMeta:
    """Return the position at which all members of a new cluster start, given their ids."""
    return SnapshotMeta(FIRST_INDEX, FIRST_TERM, ConfState(voters=tuple(sorted(voters))))
