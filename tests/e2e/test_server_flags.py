"""What single flags of the server do, seen from outside: sockets, files, the process, the log."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import grpc
import h2.events
import pytest

from tests.e2e.client import Client, put_op
from tests.e2e.cluster import Cluster, reference_under_test, wait_until
from tests.e2e.etcdctl import ok
from tests.e2e.prometheus import scrape
from tests.rpc.harness import RawClient

PATIENCE_S = 60
ESTABLISHED, KEEPALIVE_TIMER = "01", "02"

pytestmark = pytest.mark.skipif(
    reference_under_test(), reason="the reference, etcd 3.5.1, lacks some of these flags"
)


@contextmanager
def single(tmp_path: Path, *flags: str) -> Iterator[Cluster]:
    with Cluster(1, tmp_path, extra_flags=flags) as cluster:
        cluster.start_all()
        yield cluster


def log_lines(cluster: Cluster, message: str) -> list[dict[str, str]]:
    """The fields of the member's log lines with this message."""
    lines = cluster.members[0].log_path.read_text().splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return [line for line in found if line.get("msg") == message]


def _serves(cluster: Cluster) -> bool:
    """Whether the first member answers a linearizable read."""
    assert cluster.members[0].running, cluster.members[0].log_tail()
    try:
        cluster.client(0).get(b"health", timeout=1.0)
    except grpc.RpcError:
        return False
    return True


# Logs.


def test_slow_applies_and_reads_are_logged_and_counted(tmp_path: Path) -> None:
    with single(tmp_path, "--warning-apply-duration=1ns") as cluster:
        client = cluster.client(0)
        client.put(b"slow put", b"secret")
        client.get(b"slow get")
        client.txn(success=[put_op(b"slow txn", b"secret")])
        requests = {
            line["request"]: line for line in log_lines(cluster, "apply request took too long")
        }
        assert 'Put:<key:"slow put" value_size:6 >' in requests
        assert requests['key:"slow get"']["prefix"] == "read-only range "
        assert any(request.startswith("Txn:<success:<") for request in requests)
        assert all(line["expected-duration"] == "1e-06ms" for line in requests.values())
        assert "secret" not in cluster.members[0].log_path.read_text()
        slow = scrape(cluster.members[0].endpoint).sum("etcd_server_slow_apply_total")
        assert slow >= len(requests)


def test_slow_calls_are_logged_with_their_request(tmp_path: Path) -> None:
    with single(tmp_path, "--warning-unary-request-duration=1ns") as cluster:
        cluster.client(0).put(b"key", b"secret")
        with pytest.raises(grpc.RpcError):
            cluster.client(0).get(b"key", revision=10**9)
        put, get = (
            line
            for line in log_lines(cluster, "request stats")
            if line["request content"].startswith('key:"key"')
        )
        assert put["response type"] == "/etcdserverpb.KV/Put"
        assert put["remote"].startswith("127.0.0.1:")
        assert put["request content"] == 'key:"key" value_size:6'
        assert get["response size"] == -1
        assert not log_lines(cluster, "apply request took too long")


def test_by_default_nothing_is_slow_and_debug_tells_every_call(tmp_path: Path) -> None:
    with single(tmp_path, "--log-level=debug", "--warning-unary-request-duration=1h") as cluster:
        cluster.client(0).put(b"key", b"")
        calls = log_lines(cluster, "request stats")
        assert any(call["request content"] == 'key:"key"' for call in calls)
        assert {call["level"] for call in calls} == {"debug"}


def test_a_full_log_file_is_rotated_while_the_server_runs(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    flags = [
        f"--log-outputs={folder}/etcd.log",
        "--enable-log-rotation",
        '--log-rotation-config-json={"maxsize": 1, "maxbackups": 1, "compress": true}',
        "--warning-unary-request-duration=1ns",
    ]
    with single(tmp_path, *flags) as cluster:
        client, key = cluster.client(0), b"k" * 990

        def rotated() -> bool:
            for _ in range(200):
                client.get(key, serializable=True)
            return any(path.suffix == ".gz" for path in folder.iterdir())

        wait_until(rotated, PATIENCE_S, "a packed backup")
        assert (folder / "etcd.log").stat().st_size <= 1 << 20


# Sockets.


def keepalive_timers(port: int) -> list[float]:
    """Seconds until the kernel probes each accepted connection of a local port."""
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    timers = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        local, state, timer = fields[1], fields[3], fields[5]
        if int(local.partition(":")[2], 16) == port and state == ESTABLISHED:
            active, _, due = timer.partition(":")
            timers += [int(due, 16) / ticks_per_s] if active == KEEPALIVE_TIMER else []
    return timers


@pytest.mark.parametrize(
    ("flags", "least", "most"),
    [
        ([], 10.0, 30.0),
        (["--grpc-keepalive-interval=3s", "--grpc-keepalive-timeout=3s"], 0.0, 3.0),
        (["--grpc-keepalive-interval=2h"], 10.0, 30.0),
    ],
)
def test_silent_clients_are_probed_by_the_kernel(
    tmp_path: Path, flags: list[str], least: float, most: float
) -> None:
    """GEN-19: within our own 30 s whatever longer interval is asked for."""
    with single(tmp_path, *flags) as cluster:
        port = cluster.members[0].client_port
        with socket.create_connection(("127.0.0.1", port)):
            (timer,) = wait_until(lambda: keepalive_timers(port), PATIENCE_S, "a timer")[:1]
            assert least < timer <= most


def test_silent_clients_are_not_probed_if_that_is_switched_off(tmp_path: Path) -> None:
    with single(tmp_path, "--grpc-keepalive-interval=0s") as cluster:
        cluster.client(0).get(b"x")
        assert keepalive_timers(cluster.members[0].client_port) == []


@pytest.mark.parametrize(("timeout", "least", "most"), [("1ms", 0.0, 2.0), ("60s", 5.0, 20.0)])
def test_silent_peers_are_probed_after_a_third_of_the_read_timeout(
    tmp_path: Path, timeout: str, least: float, most: float
) -> None:
    """Times below etcd's 5 s are raised to it."""
    with Cluster(2, tmp_path, extra_flags=[f"--raft-read-timeout={timeout}"]) as cluster:
        cluster.start_all()
        cluster.pause(0)  # no heartbeats, no data: only the kernel's timer is left
        port = cluster.members[1].peer_port
        timers = wait_until(lambda: keepalive_timers(port), PATIENCE_S, "a timer")
        assert least <= max(timers) <= most


def test_a_port_is_shared_if_that_is_asked_for(tmp_path: Path) -> None:
    with single(tmp_path, "--socket-reuse-port") as cluster:
        member = cluster.members[0]
        for port in (member.client_port, member.peer_port):
            with socket.socket() as other:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                other.bind(("127.0.0.1", port))
    plain = tmp_path / "plain"
    plain.mkdir()
    with single(plain) as cluster, socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", cluster.members[0].client_port))


def test_streams_of_one_connection_are_limited_if_that_is_asked_for(tmp_path: Path) -> None:
    """GEN-20: unlimited unless a flag says otherwise; the client is told the limit."""
    with (
        single(tmp_path, "--max-concurrent-streams=7") as cluster,
        RawClient(cluster.members[0].client_port) as client,
    ):
        while not any(isinstance(e, h2.events.RemoteSettingsChanged) for e in client.events):
            client.read()
        assert client.h2.remote_settings.max_concurrent_streams == 7


def test_members_and_clients_may_meet_on_unix_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in etcd a URL's host is the first part of the path: these are files in tmp_path.

    etcdctl names the path as its authority, which h2corn takes only if it looks like host and port.
    """
    monkeypatch.chdir(tmp_path)
    with Cluster(2, tmp_path) as cluster:
        peers = ",".join(f"m{i}=unix://localhost:m{i}" for i in range(2))

        def start(i: int) -> None:
            cluster.start(
                i,
                f"--listen-peer-urls=unix://localhost:m{i}",
                f"--initial-advertise-peer-urls=unix://localhost:m{i}",
                f"--initial-cluster={peers}",
                f"--listen-client-urls=unix://localhost:{1000 + i},http://{cluster.endpoints[i]}",
            )

        for i in range(2):
            start(i)
        cluster.wait_healthy()
        ok(cluster.etcdctl("put", "by", "path", endpoints=["unix://localhost:1000"]))
        answer = cluster.etcdctl("get", "by", endpoints=["unix://localhost:1001"])
        assert ok(answer) == "by\npath\n"
        client = Client(f"unix:{tmp_path}/localhost:1001")
        assert client.get(b"by").kvs[0].value == b"path"
        client.close()
        cluster.kill(0)  # it leaves its sockets behind
        start(0)
        cluster.wait_healthy()
        for i in range(2):
            assert cluster.terminate(i) == 0
        assert not any(path.is_socket() for path in tmp_path.iterdir())


# The process and its data.


def test_memory_is_locked_or_the_start_says_why_not(tmp_path: Path) -> None:
    with Cluster(1, tmp_path, extra_flags=["--memory-mlock"]) as cluster:
        cluster.start(0)
        process = cluster.members[0].process
        assert process is not None

        def locked() -> bool:
            if process.poll() is not None:
                return True
            status = Path(f"/proc/{process.pid}/status").read_text()
            return int(status.partition("VmLck:")[2].split()[0]) > 0

        wait_until(locked, PATIENCE_S, "memory is locked, or the process ended")
        if process.poll() is None:
            cluster.wait_healthy()
            cluster.client(0).put(b"locked", b"in")
        else:
            assert process.returncode == 1
            assert "RLIMIT_MEMLOCK" in cluster.members[0].log_tail()


def test_a_backend_full_of_holes_is_packed_at_start_if_that_frees_enough(tmp_path: Path) -> None:
    with single(tmp_path) as cluster:
        client = cluster.client(0)
        for i in range(60):
            client.put(b"big/%d" % i, bytes(1 << 16))
        wait_until(lambda: client.status().dbSize > 3 << 20, PATIENCE_S, "all is in the file")
        client.delete(b"big/", range_end=b"big0")
        revision = client.put(b"small", b"x").header.revision
        client.compact(revision, physical=True)
        name = "etcd_mvcc_db_total_size_in_use_in_bytes"
        endpoint = cluster.members[0].endpoint
        wait_until(lambda: scrape(endpoint).sum(name) < 1 << 20, PATIENCE_S, "the removal")
        assert cluster.terminate(0) == 0
        cluster.start(0, "--bootstrap-defrag-threshold-megabytes=100")
        cluster.wait_healthy()
        assert client.status().dbSize > 2 << 20
        assert cluster.terminate(0) == 0
        cluster.start(0, "--bootstrap-defrag-threshold-megabytes=2")
        cluster.wait_healthy()
        assert client.status().dbSize < 1 << 20
        assert client.get(b"small").kvs[0].mod_revision == revision


def test_one_member_goes_on_alone_when_that_is_forced(tmp_path: Path) -> None:
    """Ids stay, nothing acknowledged is lost, and the next start needs no force."""
    with Cluster(3, tmp_path) as cluster:
        cluster.start_all()
        before = cluster.client(0).status().header
        for i in range(20):
            last = cluster.client(i % 3).put(b"key/%d" % i, b"%d" % i).header.revision
        cluster.wait_equal_hashes()
        cluster.kill_all()
        cluster.start(0, "--force-new-cluster")
        client = cluster.client(0)
        wait_until(partial(_serves, cluster), PATIENCE_S, "it serves alone")
        assert [member.name for member in client.member_list().members] == ["m0"]
        status = client.status()
        assert status.header.cluster_id == before.cluster_id
        assert status.header.member_id == before.member_id
        assert status.leader == before.member_id
        assert len(client.prefix(b"key/").kvs) == 20
        assert client.put(b"alone", b"").header.revision == last + 1
        assert cluster.terminate(0) == 0
        cluster.start(0)
        wait_until(partial(_serves, cluster), PATIENCE_S, "it serves alone")
        assert len(client.member_list().members) == 1
        assert client.get(b"alone").kvs[0].mod_revision == last + 1
