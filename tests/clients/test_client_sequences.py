"""What client libraries do that are not run here: their sequences of requests, sent raw.

clientv3 (Go), python-etcd3, jetcd (Java) and CoreDNS are known for what their sources rely on; each
test sends what such a client sends and looks at what it would look at.
"""

from __future__ import annotations

import queue
import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from kvstore.pb import rpc_pb2
from tests.e2e.client import Client, prefix_end
from tests.e2e.cluster import Cluster, reference_under_test, wait_until
from tests.e2e.etcdctl import ok

ANSWER_S = 20.0
COMPACTED = "etcdserver: mvcc: required revision has been compacted"


class Watch:
    """One Watch stream: requests go out when told, responses come one by one."""

    def __init__(self, client: Client) -> None:
        self._requests: queue.Queue[Any] = queue.Queue()
        self._call = client._watch(iter(self._requests.get, None), timeout=ANSWER_S)

    def create(self, key: bytes, **fields: Any) -> None:
        create = rpc_pb2.WatchCreateRequest(key=key, **fields)
        self._requests.put(rpc_pb2.WatchRequest(create_request=create))

    def cancel(self, watch_id: int) -> None:
        cancel = rpc_pb2.WatchCancelRequest(watch_id=watch_id)
        self._requests.put(rpc_pb2.WatchRequest(cancel_request=cancel))

    def half_close(self) -> None:
        self._requests.put(None)

    def next(self) -> Any:
        return next(self._call)

    def close(self) -> None:
        self._call.cancel()
        self._requests.put(None)


@contextmanager
def watching(client: Client) -> Iterator[Watch]:
    watch = Watch(client)
    try:
        yield watch
    finally:
        watch.close()


@pytest.fixture
def client(cluster: Cluster) -> Client:
    return cluster.client(0)


def compacted_revision(client: Client) -> int:
    """Compact what is there; return a revision below."""
    client.put(b"seq/old", b"1")
    last = client.put(b"seq/old", b"2").header.revision
    client.call("KV/Compact", rpc_pb2.CompactionRequest(revision=last))
    return int(last) - 1


# -- clientv3 ------------------------------------------------------------------------------------


def test_make_mirror_copies_pages_and_follows(cluster: Cluster) -> None:
    """OTH-03: 1,200 keys are two pages at one revision, then a watch from the next revision."""
    client = cluster.client(0)
    for i in range(1200):
        client.put(b"src/%04d" % i, b"%d" % i)
    flags = ["--prefix=src/", "--dest-prefix=dst/"]
    with cluster.etcdctl_stream("make-mirror", *flags, cluster.endpoints[1]):
        copied = lambda: client.prefix(b"dst/", count_only=True).count == 1200  # noqa: E731
        wait_until(copied, ANSWER_S, "all keys are there")
        client.put(b"src/later", b"x")
        wait_until(lambda: client.get(b"dst/later").count, ANSWER_S, "a later key follows")
        client.delete(b"src/later")
        wait_until(lambda: not client.get(b"dst/later").count, ANSWER_S, "its end too")
    assert [kv.value for kv in client.prefix(b"dst/").kvs] == [
        kv.value for kv in client.prefix(b"src/").kvs
    ]


def test_sync_finds_client_urls_that_can_be_reached(cluster: Cluster) -> None:
    """OTH-06: clientv3 takes the client URLs of started voters as its endpoints."""
    members = cluster.client(0).member_list().members
    urls = [url for m in members if m.name and not m.isLearner for url in m.clientURLs]
    assert len(urls) == 3
    for url in urls:
        other = Client(url.removeprefix("http://"))
        assert other.get(b"any").header.cluster_id
        other.close()


def test_the_announced_version_is_new_enough_for_every_client(client: Client) -> None:
    """OTH-07, KUB-27: a plain triple; clients refuse servers older than their last minor."""
    version = client.status().version
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    if not reference_under_test():
        assert tuple(map(int, version.split("."))) >= (3, 5, 13)


def test_cancels_of_unknown_watches_are_answered_calmly(client: Client) -> None:
    """OTH-08, WCH-43, WCH-44: no reply, and other watches go on; also after a compaction's."""
    old = compacted_revision(client)
    with watching(client) as watch:
        watch.cancel(77)
        watch.create(b"seq/old", start_revision=old)
        created = watch.next()
        canceled = watch.next()
        assert (created.created, canceled.canceled) == (True, True)
        watch.cancel(canceled.watch_id)
        watch.cancel(canceled.watch_id)
        watch.create(b"seq/live")
        # etcd confirms the first cancel of the dead watch, since it keeps its id (WCH-16).
        response = watch.next()
        while response.canceled:
            response = watch.next()
        assert response.created
        client.put(b"seq/live", b"x")
        assert [event.kv.key for event in watch.next().events] == [b"seq/live"]


# -- python-etcd3 --------------------------------------------------------------------------------


def test_each_create_has_the_next_created_reply(client: Client) -> None:
    """OTH-09, WCH-01, WCH-05: a failed one has id -1 and is canceled, so none takes its place."""
    with watching(client) as watch:
        watch.create(b"seq/b", range_end=b"seq/a")
        failed = watch.next()
        assert (failed.created, failed.canceled, failed.watch_id) == (True, True, -1)
        assert failed.cancel_reason
        watch.create(b"seq/a")
        created = watch.next()
        assert (created.created, created.canceled) == (True, False)
        assert created.watch_id >= 0


def test_only_a_compaction_sets_compact_revision(client: Client) -> None:
    """OTH-10, WCH-14: python-etcd3 takes any other number than 0 as "compacted"."""
    old = compacted_revision(client)
    with watching(client) as watch:
        watch.create(b"seq/x", progress_notify=True)
        created = watch.next()
        client.put(b"seq/x", b"1")
        event = watch.next()
        watch.cancel(created.watch_id)
        canceled = watch.next()
        assert canceled.canceled
        assert [r.compact_revision for r in (created, event, canceled)] == [0, 0, 0]
        watch.create(b"seq/x", start_revision=old)
        assert watch.next().compact_revision == 0
        overtaken = watch.next()
        assert (overtaken.canceled, overtaken.compact_revision) == (True, old + 1)


def test_codes_that_python_etcd3_knows(client: Client) -> None:
    """OTH-11: it looks at codes alone, and none of these is one that it takes as a failed node."""
    old = compacted_revision(client)
    calls = {
        grpc.StatusCode.INVALID_ARGUMENT: lambda: client.get(b""),
        grpc.StatusCode.OUT_OF_RANGE: lambda: client.get(b"seq/old", revision=old),
        grpc.StatusCode.NOT_FOUND: lambda: client.put(b"seq/x", lease=4711),
    }
    for code, call in calls.items():
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() is code


# -- jetcd ---------------------------------------------------------------------------------------


def test_jetcd_reads_why_a_watch_ended(client: Client) -> None:
    """OTH-14, WCH-45: "canceled" without a reason means a compaction and nothing else."""
    old = compacted_revision(client)
    with watching(client) as watch:
        watch.create(b"seq/old", start_revision=old)
        assert not watch.next().canceled
        overtaken = watch.next()
        assert (overtaken.canceled, overtaken.compact_revision > 0) == (True, True)
        watch.half_close()
    with watching(client) as watch:
        watch.create(b"seq/b", range_end=b"seq/a")
        failed = watch.next()
        assert failed.canceled
        assert failed.cancel_reason == "mvcc: watcher range is empty"


def test_a_half_closed_watch_goes_on(client: Client) -> None:
    """WCH-46, OTH-14."""
    with watching(client) as watch:
        watch.create(b"seq/half")
        assert watch.next().created
        watch.half_close()
        client.put(b"seq/half", b"x")
        assert watch.next().events[0].kv.value == b"x"


def test_a_keepalive_of_a_lost_lease_says_ttl_0(client: Client) -> None:
    """OTH-15, LSE-06: on one stream with others, which go on."""
    lease = client.grant(60).ID
    requests = [rpc_pb2.LeaseKeepAliveRequest(ID=i) for i in (lease, 4711, lease)]
    answers = list(client._keep_alive(iter(requests), timeout=ANSWER_S))
    assert [(a.ID, a.TTL) for a in answers] == [(lease, 60), (4711, 0), (lease, 60)]
    client.revoke(lease)


def test_texts_that_jetcd_compares(client: Client) -> None:
    """OTH-16: it repeats idempotent calls by code, and knows some errors by their exact text."""
    old = compacted_revision(client)
    with pytest.raises(grpc.RpcError) as caught:
        client.get(b"seq/old", revision=old)
    assert caught.value.details() == COMPACTED
    with pytest.raises(grpc.RpcError) as caught:
        client.revoke(4711)
    assert caught.value.details() == "etcdserver: requested lease not found"


# -- others --------------------------------------------------------------------------------------


def test_coredns_asks_by_prefix_then_by_key_and_for_the_rest_of_leases(client: Client) -> None:
    """OTH-21."""
    lease = client.grant(300).ID
    client.put(b"/skydns/local/x1", b'{"host":"1.1.1.1"}', lease=lease)
    path = b"/skydns/local/x1"
    children = client.get(path + b"/", range_end=prefix_end(path + b"/"))
    assert (children.count, len(children.kvs)) == (0, 0)
    found = client.get(path)
    assert (found.count, found.kvs[0].lease) == (1, lease)
    left = client.time_to_live(found.kvs[0].lease)
    assert 0 < left.TTL <= left.grantedTTL == 300


def test_patroni_reads_versions_as_numbers(cluster: Cluster) -> None:
    """OTH-20."""
    with urllib.request.urlopen(f"http://{cluster.endpoints[0]}/version", timeout=10) as answer:
        text = answer.read().decode()
    for name in ("etcdserver", "etcdcluster"):
        assert re.search(rf'"{name}":"\d+\.\d+\.\d+"', text)


def test_header_terms_and_ids_are_those_of_the_member_asked(cluster: Cluster) -> None:
    """OTH-19, GEN-01, GEN-02: Patroni drops a node of another cluster, or whose term goes back."""
    seen = []
    for i in range(3):
        client = cluster.client(i)
        terms = [client.put(b"seq/t", b"x").header.raft_term for _ in range(3)]
        assert terms == sorted(terms)
        seen.append((client.get(b"seq/t").header.cluster_id, client.status().header.member_id))
    assert len({cluster_id for cluster_id, _ in seen}) == 1
    assert len({member_id for _, member_id in seen}) == 3


def test_lock_keys_of_etcdctl_are_ordinary_keys(cluster: Cluster) -> None:
    """OTH-05, CON-02: printed by the holder, visible to all, gone with it."""
    with cluster.etcdctl_stream("lock", "seq-lock") as holder:
        key = holder.read(1)[0]
        assert re.fullmatch(r"seq-lock/[0-9a-f]+", key)
        assert ok(cluster.etcdctl("get", "seq-lock/", "--prefix", "--keys-only")).strip() == key
        lease = int(key.rpartition("/")[2], 16)
        assert cluster.client(0).time_to_live(lease).grantedTTL == 10
    cluster.client(0).revoke(lease)
    assert cluster.client(0).prefix(b"seq-lock/").count == 0
