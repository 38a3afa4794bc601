"""What is checked before a change of members is proposed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kvstore.errors import (
    LEARNER_NOT_READY,
    MEMBER_BAD_URLS,
    MEMBER_NOT_ENOUGH_STARTED,
    UNHEALTHY,
    EtcdError,
)
from kvstore.membership.cluster import Cluster, MemberInfo
from kvstore.membership.rules import (
    HEALTH_INTERVAL_S,
    MAX_PEER_URLS_BYTES,
    check_add,
    check_peer_urls,
    check_promote,
    check_ready,
    check_remove,
)
from kvstore.storage.memory_backend import MemoryBackend

NOW = 1000.0
LONG = NOW - HEALTH_INTERVAL_S - 0.1
SHORT = NOW - HEALTH_INTERVAL_S
OWN = 1


def cluster_of(started: int, unstarted: int = 0, learners: int = 0) -> Cluster:
    """Members with ids from 1 on: voters that have started, voters that have not, learners."""
    count = started + unstarted + learners
    infos = [
        MemberInfo(
            i, f"m{i}" if i <= started else "", (f"http://{i}",), (), i > started + unstarted
        )
        for i in range(1, count + 1)
    ]
    return Cluster.write(MemoryBackend(), 1, infos)


def connected(*peers: int, since: float = LONG) -> dict[int, float]:
    return dict.fromkeys(peers, since)


def outcome(check: Callable[[], None]) -> EtcdError | None:
    try:
        check()
    except EtcdError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("started", "unstarted", "expected"),
    [
        (1, 0, None),
        (0, 1, MEMBER_NOT_ENOUGH_STARTED),
        (1, 1, MEMBER_NOT_ENOUGH_STARTED),
        (2, 0, None),
        (3, 0, None),
        (3, 1, None),
        (3, 2, MEMBER_NOT_ENOUGH_STARTED),
        (4, 2, None),
    ],
)
def test_started_voters_are_a_quorum_of_one_more(
    started: int, unstarted: int, expected: EtcdError | None
) -> None:
    """CLU-06, CLU-07: one may become two; an addition of a learner does not ask for it."""
    cluster = cluster_of(started, unstarted, learners=3)
    others = connected(*range(2, started + unstarted + 1))

    def add(*, learner: bool) -> EtcdError | None:
        return outcome(
            lambda: check_add(cluster, learner=learner, own_id=OWN, connected=others, now=NOW)
        )

    assert add(learner=False) is expected
    assert add(learner=True) is None


@pytest.mark.parametrize(
    ("voters", "peers", "expected"),
    [
        (1, {}, None),
        (2, connected(2), None),
        (2, {}, UNHEALTHY),
        (2, connected(2, since=SHORT), UNHEALTHY),
        (3, connected(2, 3), None),
        (3, connected(2), UNHEALTHY),
        (3, connected(2, 9), UNHEALTHY),
        (4, connected(2, 3), None),
        (5, connected(2, 3, 4), None),
        (5, connected(2, 3), UNHEALTHY),
    ],
)
def test_this_member_is_connected_to_a_quorum_of_one_more(
    voters: int, peers: dict[int, float], expected: EtcdError | None
) -> None:
    """CLU-08: for learners too; for five seconds."""
    cluster = cluster_of(voters)
    for learner in (False, True):
        found = outcome(
            lambda learner=learner: check_add(  # type: ignore[misc]
                cluster, learner=learner, own_id=OWN, connected=peers, now=NOW
            )
        )
        assert found is expected


@pytest.mark.parametrize(
    ("cluster", "member_id", "peers", "expected"),
    [
        (cluster_of(1), 1, {}, MEMBER_NOT_ENOUGH_STARTED),
        (cluster_of(2), 2, connected(2), None),
        (cluster_of(2), 2, {}, None),
        (cluster_of(2), 1, connected(2), None),
        (cluster_of(2), 1, {}, UNHEALTHY),
        (cluster_of(3), 2, connected(2, 3), None),
        (cluster_of(3), 2, connected(2), UNHEALTHY),
        (cluster_of(3), 2, connected(3), None),
        (cluster_of(3), 1, connected(2), UNHEALTHY),
        (cluster_of(3), 9, connected(2), None),
        (cluster_of(3), 2, {2: SHORT, 3: LONG}, UNHEALTHY),
        (cluster_of(5), 2, connected(2, 3, 4), None),
        (cluster_of(5), 2, connected(2, 3), UNHEALTHY),
        (cluster_of(2, 2), 1, connected(2), MEMBER_NOT_ENOUGH_STARTED),
        (cluster_of(2, 1), 3, {}, None),
        (cluster_of(1, 1), 1, {}, MEMBER_NOT_ENOUGH_STARTED),
        (cluster_of(1, 0, learners=1), 2, {}, None),
    ],
)
def test_those_who_stay_are_a_quorum(
    cluster: Cluster, member_id: int, peers: dict[int, float], expected: EtcdError | None
) -> None:
    """CLU-09, CLU-10: what is down may go, a learner always."""
    found = outcome(lambda: check_remove(cluster, member_id, own_id=OWN, connected=peers, now=NOW))
    assert found is expected


@pytest.mark.parametrize(
    ("started", "unstarted", "expected"),
    [(1, 0, None), (1, 1, None), (1, 2, MEMBER_NOT_ENOUGH_STARTED), (2, 2, None)],
)
def test_promoted_learner_counts_as_started(
    started: int, unstarted: int, expected: EtcdError | None
) -> None:
    """CLU-13."""
    cluster = cluster_of(started, unstarted, learners=1)
    assert outcome(lambda: check_promote(cluster)) is expected


@pytest.mark.parametrize(
    ("learner", "leader", "expected"),
    [(0, 5, LEARNER_NOT_READY), (899, 1000, LEARNER_NOT_READY), (900, 1000, None), (1, 1, None)],
)
def test_learner_has_nine_tenths_of_the_leaders_log(
    learner: int, leader: int, expected: EtcdError | None
) -> None:
    """CLU-13."""
    assert outcome(lambda: check_ready(learner, leader)) is expected


def test_peer_urls_are_checked_and_sorted() -> None:
    """CLU-03."""
    assert check_peer_urls([" http://b:1", "https://a:2"]) == ("http://b:1", "https://a:2")
    assert check_peer_urls(["unix://c", "http://:1"]) == ("http://:1", "unix://c")
    for bad in ([], ["http://a"], ["http://a:1", ""], ["a:1"], ["http://a:1/x"]):
        with pytest.raises(EtcdError) as caught:
            check_peer_urls(bad)
        assert caught.value is MEMBER_BAD_URLS


def test_length_of_peer_urls_is_bounded() -> None:
    url = "http://" + "x" * (MAX_PEER_URLS_BYTES - len("http://:1")) + ":1"
    assert check_peer_urls([url]) == (url,)
    with pytest.raises(EtcdError) as caught:
        check_peer_urls([url, "http://a:1"])
    assert caught.value is MEMBER_BAD_URLS
