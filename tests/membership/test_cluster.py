"""Member and cluster ids, and the member list in the backend."""

from kvstore.membership.cluster import Cluster
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
