"""etcd3gw, the Python client of the JSON gateway: its calls work through every member."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from etcd3gw.client import Etcd3Client
from etcd3gw.exceptions import WatchTimedOut
from etcd3gw.lock import Lock

from tests.e2e.cluster import Cluster

ANSWER_S = 20


@pytest.fixture(params=range(3))
def client(cluster: Cluster, request: pytest.FixtureRequest) -> Etcd3Client:
    port = cluster.members[request.param].client_port
    return Etcd3Client(host="127.0.0.1", port=port, api_path="/v3/", timeout=ANSWER_S)


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    return f"gw/{request.node.name}/"


def test_keys_and_values(client: Etcd3Client, prefix: str) -> None:
    """HTP-09, HTP-10."""
    assert client.put(prefix + "a", "1")
    assert client.put(prefix + "b", b"\x00\xff")
    assert client.get(prefix + "a") == [b"1"]
    assert client.get(prefix + "none") == []
    values = [value for value, _ in client.get_prefix(prefix)]
    assert values == [b"1", b"\x00\xff"]
    ordered = client.get_prefix(prefix, sort_order="descend", sort_target="key")
    assert [meta["key"] for _, meta in ordered] == [(prefix + k).encode() for k in "ba"]
    assert ordered[0][1]["version"] == "1", "64-bit numbers are strings"
    assert client.delete(prefix + "a")
    assert client.delete(prefix + "a") is False
    assert client.delete_prefix(prefix)
    assert client.get_prefix(prefix) == []


def test_create_and_replace_are_transactions(client: Etcd3Client, prefix: str) -> None:
    key = prefix + "k"
    assert client.create(key, "one") is True
    assert client.create(key, "two") is False
    assert client.replace(key, "one", "three") is True
    assert client.replace(key, "one", "four") is False
    assert client.get(key) == [b"three"]


def test_leases(client: Etcd3Client, prefix: str) -> None:
    lease = client.lease(ttl=60)
    client.put(prefix + "leased", "x", lease=lease)
    assert 0 < lease.ttl() <= 60
    assert lease.refresh() == 60
    assert lease.keys() == [(prefix + "leased").encode()]
    assert lease.revoke()
    assert client.get(prefix + "leased") == []
    assert lease.refresh() == -1


def test_locks_exclude_each_other(client: Etcd3Client, prefix: str) -> None:
    with Lock(prefix + "lock", ttl=30, client=client) as lock:
        assert lock.is_acquired()
        other = Lock(prefix + "lock", ttl=30, client=client)
        assert other.acquire() is False
    assert other.acquire() is True
    assert other.release()


def test_watches_see_what_happens(client: Etcd3Client, prefix: str) -> None:
    """HTP-11: results come as they happen, DELETE by its name, PUT left out (OTH-18)."""
    events, cancel = client.watch_prefix(prefix)
    seen: list[dict[str, Any]] = []
    three = threading.Event()

    def read(stream: Iterator[dict[str, Any]]) -> None:
        for event in stream:
            seen.append(event)
            if len(seen) == 3:
                three.set()
                return

    reader = threading.Thread(target=read, args=(events,))
    reader.start()
    client.put(prefix + "w", "1")
    client.put(prefix + "w", "2")
    client.delete(prefix + "w")
    assert three.wait(ANSWER_S)
    cancel()
    reader.join()
    assert [(event.get("type"), event["kv"].get("value")) for event in seen] == [
        (None, b"1"),
        (None, b"2"),
        ("DELETE", None),
    ]


def test_a_watch_of_nothing_times_out_at_the_client(client: Etcd3Client, prefix: str) -> None:
    with pytest.raises(WatchTimedOut):
        client.watch_once(prefix + "never", timeout=1)


def test_status_and_members(client: Etcd3Client) -> None:
    status = client.status()
    members = {member["ID"]: member for member in client.members()}
    assert status["header"]["member_id"] in members
    assert status["leader"] in members
    assert {member["name"] for member in members.values()} == {"m0", "m1", "m2"}
