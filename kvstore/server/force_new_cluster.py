"""``--force-new-cluster``: go on alone with the data of one member, when the others are lost.

The log gets the removal of every other member, marked as committed by decree, because there is no
majority any more that could. Cluster and member ids stay. Unlike etcd, which throws away entries
that it does not know to be committed, everything that is in the log stays: some of it may have been
acknowledged, and nobody is left who could tell.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from kvstore.membership import changes
from kvstore.node.changes import build
from kvstore.node.request import Kind
from kvstore.server.datadir import State
from kvstore.storage.wal import Batch
from raft import (
    CONF_CHANGE,
    ConfChangeType,
    ConfState,
    Entry,
    decode_conf_change,
    encode_conf_change,
)

log = logging.getLogger("server")

_NOBODY = 0
"""Request id of these entries: nobody waits for them."""


def stand_alone(state: State) -> State:
    """Append what makes the member the only one, durably, and return the state with it.

    Raises StorageError.
    """
    recovered, own = state.recovered, state.member_id
    applied = state.applied.index - recovered.snapshot.index
    voters, others = _members(state.applied.conf_state, recovered.entries[applied:], own)
    bodies = [] if own in voters else [(Kind.MEMBER_PROMOTE, own)]
    bodies += [(Kind.MEMBER_REMOVE, other) for other in sorted(others)]
    if not bodies:
        return state
    term = recovered.hard_state.term
    entries: list[Entry] = [
        (term, CONF_CHANGE, encode_conf_change(build(kind, _NOBODY, changes.encode_id(member_id))))
        for kind, member_id in bodies
    ]
    first = recovered.snapshot.index + len(recovered.entries) + 1
    hard_state = recovered.hard_state._replace(commit=first + len(entries) - 1)
    state.wal.append([Batch(hard_state, first, entries, None, None)])
    log.warning(
        "forced a new cluster of this member alone",
        extra={"removed": [f"{other:x}" for other in sorted(others)]},
    )
    together = [*recovered.entries, *entries]
    return replace(state, recovered=replace(recovered, hard_state=hard_state, entries=together))


def _members(conf: ConfState, entries: Sequence[Entry], own: int) -> tuple[set[int], set[int]]:
    """Return who votes once the entries are applied, and all others that may be members then.

    An entry may be refused when it is applied, so the others may be too many; removing one that is
    no member is refused too.
    """
    voters = {*conf.voters, *conf.voters_outgoing}
    others = {*voters, *conf.learners, *conf.learners_next}
    for _, kind, data in entries:
        if kind != CONF_CHANGE:
            continue
        for what, member_id in decode_conf_change(data).changes:
            others.add(member_id)
            if what is ConfChangeType.ADD_VOTER:
                voters.add(member_id)
            else:
                voters.discard(member_id)
    return voters, others - {own}
