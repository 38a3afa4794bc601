"""What a snapshot must keep, and the tools of both sides that restore one.

`fill` gives a cluster a past; `View` is everything of it that a client can see from its compact
revision on, asked over the wire, so that two clusters can be compared whatever program they run.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from kvstore.pb import rpc_pb2
from tests.e2e.client import Client, delete_op, put_op
from tests.e2e.cluster import Cluster
from tests.e2e.etcdctl import distro_binary

TTL_S = 3600
ETCDUTL = (distro_binary("etcdutl"), "snapshot")
OURS = (sys.executable, "-m", "kvstore", "snapshot")
ETCD = (distro_binary("etcd"),)
BULK_KEYS = 6_000
"""Enough revisions for several branch pages in a bbolt file; looked at once only."""
AFTER_BULK = b"c"


def fill(client: Client) -> None:
    """Puts, overwrites, deletes, transactions, leases, and a compaction somewhere in between."""
    lease = client.grant(TTL_S, 0x1001).ID
    client.grant(TTL_S, 0x1002)
    for i in range(0, BULK_KEYS, 100):
        client.txn(success=[put_op(b"bulk/%06d" % n, b"x" * 60) for n in range(i, i + 100)])
    for i in range(60):
        client.put(b"k%d" % (i % 17), b"value %d" % i, lease=lease if i % 5 == 0 else 0)
        if i % 7 == 0:
            client.delete(b"k%d" % (i % 13))
        if i % 11 == 0:
            client.txn(success=[put_op(b"t", b"%d" % i), delete_op(b"k1"), put_op(b"u%d" % i, b"")])
    client.put(b"large", bytes(range(256)) * 4000)
    compacted = client.put(b"keep").header.revision
    client.compact(compacted, physical=True)
    for i in range(25):
        client.put(b"k%d" % (i % 5), b"later %d" % i)
        if i % 6 == 0:
            client.delete(b"k", range_end=b"k3")
    client.put(b"leased", b"alive", lease=lease)


@dataclass(frozen=True)
class View:
    """What can be seen at `revision` and before; two of the same state are equal."""

    revision: int
    compact_revision: int
    hash: int
    ranges: list[bytes]
    """The key-values at each revision, as bytes."""
    events: list[bytes]
    leases: dict[int, tuple[int, list[bytes]]]
    """Granted TTL and keys of each lease."""


def view(client: Client, revision: int) -> View:
    """Ask one member for all of it."""
    hashed = client.hash_kv(revision)
    first = hashed.compact_revision
    ranges = []
    for at in range(first, revision + 1):
        answer = client.get(b"\0" if at == revision else AFTER_BULK, range_end=b"\0", revision=at)
        ranges.append(b"".join(kv.SerializeToString() for kv in answer.kvs))
    leases = {}
    for status in client.call("Lease/LeaseLeases", rpc_pb2.LeaseLeasesRequest()).leases:
        found = client.time_to_live(status.ID, keys=True)
        leases[status.ID] = (found.grantedTTL, sorted(found.keys))
    return View(revision, first, hashed.hash, ranges, history(client, first, revision), leases)


def history(client: Client, first: int, last: int) -> list[bytes]:
    """What a watch of everything from `first` on tells, up to the events of `last`."""
    with client.watch(first) as responses:
        events: list[bytes] = []
        for response in responses:
            assert not response.canceled, response
            for event in response.events:
                if event.kv.mod_revision > last:
                    return events
                events.append(event.SerializeToString())
                # The last revision of `fill` and of its callers is one put: nothing follows it.
                if event.kv.mod_revision == last:
                    return events
    raise AssertionError("the watch ended")


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a tool to its end."""
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)


def restore(tool: tuple[str, ...], snapshot: Path, cluster: Cluster, *flags: str) -> None:
    """Make the data directories of all members of a cluster that was not started yet."""
    for i, member in enumerate(cluster.members):
        wanted = ("name", "data-dir", "initial-cluster", "initial-cluster-token")
        own = [
            flag
            for flag in cluster.flags(i)
            if flag.partition("=")[0].removeprefix("--") in (*wanted, "initial-advertise-peer-urls")
        ]
        done = run(*tool, "restore", snapshot, *own, *flags)
        assert done.returncode == 0, done.stdout + done.stderr
        assert member.data_dir.is_dir()


def save(cluster: Cluster, i: int, path: Path) -> Path:
    """Save a snapshot of one member with the real etcdctl, which checks size and digest place."""
    done = cluster.etcdctl("snapshot", "save", str(path), endpoints=[cluster.members[i].endpoint])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Snapshot saved at" in done.stdout
    return path
