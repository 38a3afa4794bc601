"""Member and cluster ids, the member list in the backend, and its changes."""

import pytest

from kvstore.errors import (
    MEMBER_EXIST,
    MEMBER_NOT_ENOUGH_STARTED,
    MEMBER_NOT_FOUND,
    MEMBER_NOT_LEARNER,
    PEER_URL_EXIST,
    TOO_MANY_LEARNERS,
    EtcdError,
)
from kvstore.membership.cluster import Cluster, MemberInfo
from kvstore.membership.ids import compute_cluster_id, compute_member_id
from kvstore.storage.memory_backend import MemoryBackend

THREE = {f"m{i}": (f"http://127.0.0.1:{2380 + i}",) for i in range(3)}


def test_ids_are_those_that_etcd_computes_from_the_same_flags() -> None:
    """These two numbers are what a stand-alone etcd with default flags shows."""
    member = compute_member_id(["http://localhost:2380"], "etcd-cluster")
    assert f"{member:x}" == "8e9e05c52164694d"
    assert f"{compute_cluster_id([member]):x}" == "cdf818194e3a8c32"


def test_ids_do_not_depend_on_the_order_of_urls_and_members() -> None:
    urls = ["http://10.0.0.1:2380", "http://10.0.0.2:2380"]
    assert compute_member_id(urls, "t") == compute_member_id(urls[::-1], "t")
    assert compute_cluster_id([1, 2, 3]) == compute_cluster_id([3, 1, 2])


def test_another_token_makes_another_cluster() -> None:
    first = Cluster.bootstrap(MemoryBackend(), THREE, "one")
    second = Cluster.bootstrap(MemoryBackend(), THREE, "two")
    assert first.cluster_id != second.cluster_id
    assert first.members.keys().isdisjoint(second.members)


def test_member_list_survives_a_restart() -> None:
    """CLU-01, CLU-16: a published member shows name and client URLs, another neither."""
    backend = MemoryBackend()
    cluster = Cluster.bootstrap(backend, THREE, "token")
    published = min(cluster.members)
    cluster.publish(published, "m0", ("http://127.0.0.1:2379",))
    cluster.set_version("3.6.0")
    backend.commit()
    again = Cluster.load(backend.crash())
    assert again is not None
    assert again.members == cluster.members
    assert again.version == "3.6.0"
    listed = again.to_pb()
    assert [member.ID for member in listed] == sorted(cluster.members)
    assert [member.name for member in listed] == ["m0", "", ""]
    assert list(listed[0].clientURLs) == ["http://127.0.0.1:2379"]
    assert not listed[1].clientURLs


def test_publication_of_an_unknown_member_changes_nothing() -> None:
    cluster = Cluster.bootstrap(MemoryBackend(), THREE, "token")
    before = dict(cluster.members)
    cluster.publish(12345, "stranger", ())
    assert cluster.members == before


def test_an_empty_backend_holds_no_cluster() -> None:
    assert Cluster.load(MemoryBackend()) is None


def test_a_new_cluster_forgets_the_members_of_a_restored_one() -> None:
    backend = MemoryBackend()
    old = Cluster.bootstrap(backend, THREE, "old")
    old.set_version("3.6.0")
    backend.commit()
    Cluster.bootstrap(backend, {"new": ("http://127.0.0.1:1",)}, "new")
    restored = Cluster.load(backend)
    assert restored is not None
    assert [info.peer_urls for info in restored.members.values()] == [("http://127.0.0.1:1",)]
    assert restored.version == ""


def added(cluster: Cluster, member_id: int, *urls: str, learner: bool = False) -> MemberInfo:
    info = MemberInfo(member_id, "", urls, (), learner)
    cluster.add(info, max_learners=1)
    return info


def three() -> Cluster:
    return Cluster.bootstrap(MemoryBackend(), THREE, "token")


def test_changes_survive_a_restart() -> None:
    backend = MemoryBackend()
    cluster = Cluster.bootstrap(backend, THREE, "token")
    gone = min(cluster.members)
    cluster.remove(gone)
    added(cluster, 77, "http://127.0.0.1:9", learner=True)
    cluster.promote(77)
    cluster.update(77, ("http://127.0.0.1:10",))
    backend.commit()
    again = Cluster.load(backend.crash())
    assert again is not None
    assert again.members == cluster.members
    assert again.removed == {gone}
    assert again.members[77] == MemberInfo(77, "", ("http://127.0.0.1:10",))


def test_peer_url_of_another_member_is_refused() -> None:
    """CLU-04, CLU-12: at an addition and at an update; a member may keep its own."""
    cluster = three()
    first, second, _ = cluster.members.values()
    with pytest.raises(EtcdError) as caught:
        added(cluster, 77, "http://127.0.0.1:1", *first.peer_urls)
    assert caught.value is PEER_URL_EXIST
    with pytest.raises(EtcdError) as caught:
        cluster.update(second.id, first.peer_urls)
    assert caught.value is PEER_URL_EXIST
    cluster.publish(second.id, "second", ("http://c",))
    cluster.update(second.id, (*second.peer_urls, "http://127.0.0.1:1"))
    updated = cluster.members[second.id]
    assert updated.peer_urls == (*second.peer_urls, "http://127.0.0.1:1")
    assert (updated.name, updated.client_urls) == ("second", ("http://c",))


def test_removed_id_is_barred_for_ever() -> None:
    """CLU-05, CLU-09: it cannot come back, be removed again, updated or promoted."""
    cluster = three()
    gone = next(iter(cluster.members))
    cluster.remove(gone)
    calls = (
        lambda: added(cluster, gone, "http://127.0.0.1:1"),
        lambda: cluster.remove(gone),
        lambda: cluster.update(gone, ("http://127.0.0.1:1",)),
        lambda: cluster.promote(gone),
        lambda: cluster.remove(12345),
    )
    for call in calls:
        with pytest.raises(EtcdError) as caught:
            call()
        assert caught.value is MEMBER_NOT_FOUND
    cluster.publish(gone, "ghost", ())
    assert gone not in cluster.members


def test_id_of_a_refused_addition_is_barred() -> None:
    """A copy of the entry that comes later must not succeed: its asker was told that it failed."""
    cluster = three()
    first = next(iter(cluster.members.values()))
    with pytest.raises(EtcdError):
        added(cluster, 77, *first.peer_urls)
    cluster.remove(first.id)
    with pytest.raises(EtcdError) as caught:
        added(cluster, 77, *first.peer_urls)
    assert caught.value is MEMBER_NOT_FOUND
    added(cluster, 78, *first.peer_urls)


def test_an_existing_id_is_refused_and_stays_a_member() -> None:
    cluster = three()
    added(cluster, 77, "http://127.0.0.1:1")
    with pytest.raises(EtcdError) as caught:
        added(cluster, 77, "http://127.0.0.1:2")
    assert caught.value is MEMBER_EXIST
    assert cluster.members[77].peer_urls == ("http://127.0.0.1:1",)


def test_learners_are_limited_and_only_learners_are_promoted() -> None:
    """CLU-06, CLU-13: the limit is that of the member which proposed the addition."""
    cluster = three()
    added(cluster, 77, "http://127.0.0.1:1", learner=True)
    assert 77 not in [info.id for info in cluster.voters()]
    with pytest.raises(EtcdError) as caught:
        added(cluster, 78, "http://127.0.0.1:2", learner=True)
    assert caught.value is TOO_MANY_LEARNERS
    cluster.add(MemberInfo(79, "", ("http://127.0.0.1:3",), (), True), max_learners=2)
    cluster.promote(77)
    with pytest.raises(EtcdError) as caught:
        cluster.promote(77)
    assert caught.value is MEMBER_NOT_LEARNER


def test_the_last_voter_cannot_be_removed() -> None:
    cluster = Cluster.bootstrap(MemoryBackend(), {"m": ("http://127.0.0.1:1",)}, "token")
    [only] = cluster.members
    added(cluster, 77, "http://127.0.0.1:2", learner=True)
    with pytest.raises(EtcdError) as caught:
        cluster.remove(only)
    assert caught.value is MEMBER_NOT_ENOUGH_STARTED
    cluster.remove(77)
    assert list(cluster.members) == [only]
