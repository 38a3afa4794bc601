"""What is checked before a change of members is proposed: URLs, and what it does to availability.

Pure functions of the member list and of what the asked member sees of the others; the caller has
the clock. That a change fits the list is checked again at its turn in the log (`Cluster`); nothing
here is needed for safety, so the answers may differ from member to member.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kvstore.errors import (
    LEARNER_NOT_READY,
    MEMBER_BAD_URLS,
    MEMBER_NOT_ENOUGH_STARTED,
    UNHEALTHY,
)
from kvstore.membership.cluster import Cluster, MemberInfo
from kvstore.membership.urls import UrlError, sort_urls

HEALTH_INTERVAL_S = 5.0
"""A connection counts once it has lasted so long (CLU-08, CLU-10)."""
LEARNER_READY = 0.9
"""Part of the leader's log that a learner must hold to be promoted (CLU-13)."""
MAX_PEER_URLS_BYTES = 16_384
"""Longest list of one member's peer URLs, joined by one byte each: it is sent in each handshake."""


def check_peer_urls(urls: Iterable[str]) -> tuple[str, ...]:
    """Return peer URLs sorted (CLU-03).

    Raises MEMBER_BAD_URLS for none at all, for what is no URL with a port and without a path, and
    for more than MAX_PEER_URLS_BYTES of them.
    """
    try:
        found = sort_urls(urls)
    except UrlError:
        raise MEMBER_BAD_URLS from None
    if not found or len("\n".join(found).encode()) > MAX_PEER_URLS_BYTES:
        raise MEMBER_BAD_URLS
    return found


def check_add(
    cluster: Cluster, *, learner: bool, own_id: int, connected: Mapping[int, float], now: float
) -> None:
    """The strict check of an addition (CLU-06..08).

    Args:
        connected: since when, in seconds of the clock of `now`, this member is connected to others.

    Raises MEMBER_NOT_ENOUGH_STARTED: the voters that have started would be no quorum with one more.
        UNHEALTHY: this member has not been connected to such a quorum for HEALTH_INTERVAL_S.
    """
    voters = cluster.voters()
    started = _started(voters)
    # One member may become two: how else would a cluster grow, or be restored from one.
    if not learner and not (started == len(voters) == 1) and started < _quorum(len(voters) + 1):
        raise MEMBER_NOT_ENOUGH_STARTED
    if len(voters) > 1 and _active(voters, own_id, connected, now) < _quorum(len(voters) + 1):
        raise UNHEALTHY


def check_remove(
    cluster: Cluster, member_id: int, *, own_id: int, connected: Mapping[int, float], now: float
) -> None:
    """The strict check of a removal (CLU-09, CLU-10); arguments and errors as in `check_add`.

    A learner, and a member that is not reached, may always go.
    """
    info = cluster.members.get(member_id)
    if info is not None and info.is_learner:
        return
    voters = cluster.voters()
    left = [voter for voter in voters if voter.id != member_id]
    if _started(left) < _quorum(len(left)):
        raise MEMBER_NOT_ENOUGH_STARTED
    if member_id != own_id and member_id not in connected:
        return
    if _active(voters, own_id, connected, now) - 1 < 1 + (len(voters) - 1) // 2:
        raise UNHEALTHY


def check_promote(cluster: Cluster) -> None:
    """The strict check of a promotion. Raises MEMBER_NOT_ENOUGH_STARTED."""
    voters = cluster.voters()
    if _started(voters) + 1 < _quorum(len(voters) + 1):
        raise MEMBER_NOT_ENOUGH_STARTED


def check_ready(learner_match: int, leader_match: int) -> None:
    """Raise LEARNER_NOT_READY for a learner that lacks too much of the leader's log (CLU-13)."""
    if learner_match < LEARNER_READY * leader_match:
        raise LEARNER_NOT_READY


def _quorum(voters: int) -> int:
    return voters // 2 + 1


def _started(members: Iterable[MemberInfo]) -> int:
    return sum(info.started for info in members)


def _active(
    members: Iterable[MemberInfo], own_id: int, connected: Mapping[int, float], now: float
) -> int:
    """How many this member has been connected to for long enough, itself included."""
    return sum(
        info.id == own_id or connected.get(info.id, now) < now - HEALTH_INTERVAL_S
        for info in members
    )
