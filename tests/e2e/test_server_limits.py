"""Flags that bound or pace something, shown by what happens at the bound."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from tests.e2e.client import put_op
from tests.e2e.cluster import Cluster, free_ports, reference_under_test, wait_until
from tests.e2e.prometheus import Scrape, increase, scrape

PATIENCE_S = 60
COMMITS = "etcd_disk_backend_commit_duration_seconds_count"
STEPS = "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds_count"

pytestmark = pytest.mark.skipif(
    reference_under_test(), reason="the reference, etcd 3.5.1, has some of these flags by old names"
)


@contextmanager
def single(tmp_path: Path, *flags: str) -> Iterator[Cluster]:
    with Cluster(1, tmp_path, extra_flags=flags) as cluster:
        cluster.start_all()
        yield cluster


def metrics(cluster: Cluster) -> Scrape:
    return scrape(cluster.members[0].endpoint)


def log_lines(cluster: Cluster, i: int) -> list[dict[str, str]]:
    lines = cluster.members[i].log_path.read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def refused(code: grpc.StatusCode, text: str, call: object) -> None:
    assert callable(call)
    with pytest.raises(grpc.RpcError, match=text) as raised:
        call()
    assert raised.value.code() == code


def test_requests_are_limited_in_bytes_and_transactions_in_operations(tmp_path: Path) -> None:
    """GEN-16, GEN-17: the envelope counts; far above it the transport refuses."""
    with single(tmp_path, "--max-request-bytes=2000", "--max-txn-ops=3") as cluster:
        client = cluster.client(0)
        client.put(b"fits", bytes(1900))
        refused(
            grpc.StatusCode.INVALID_ARGUMENT,
            "request is too large",
            lambda: client.put(b"big", bytes(2000)),
        )
        refused(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "larger than max",
            lambda: client.put(b"bigger", bytes(2000 + 512 * 1024)),
        )
        ops = [put_op(b"op/%d" % i, b"") for i in range(4)]
        client.txn(success=ops[:3])
        refused(
            grpc.StatusCode.INVALID_ARGUMENT,
            "too many operations in txn request",
            lambda: client.txn(success=ops),
        )


def test_learners_are_limited_to_the_number_asked_for(tmp_path: Path) -> None:
    """CLU-06."""
    with single(tmp_path, "--max-learners=2", "--strict-reconfig-check=false") as cluster:
        client = cluster.client(0)
        for port in (1, 2):
            client.member_add(f"http://127.0.0.1:{port}", learner=True)
        refused(
            grpc.StatusCode.FAILED_PRECONDITION,
            "too many learner members in cluster",
            lambda: client.member_add("http://127.0.0.1:3", learner=True),
        )


def test_risky_changes_of_members_are_allowed_without_the_strict_checks(tmp_path: Path) -> None:
    """CLU-07: with a member down another voter would make four, of which two are not there."""
    for folder, flag in (("strict", "true"), ("lax", "false")):
        path = tmp_path / folder
        path.mkdir()
        flags = [f"--strict-reconfig-check={flag}"]
        with Cluster(3, path, extra_flags=flags) as cluster:
            cluster.start_all()
            cluster.kill(cluster.followers()[0])
            client = cluster.client(cluster.leader())
            client.put(b"a quorum", b"is there")
            if flag == "true":
                refused(
                    grpc.StatusCode.UNAVAILABLE,
                    "unhealthy cluster",
                    lambda client=client: client.member_add("http://127.0.0.1:1"),
                )
            else:
                assert len(client.member_add("http://127.0.0.1:1").members) == 4


def test_a_compaction_goes_in_steps_of_the_size_asked_for(tmp_path: Path) -> None:
    """CMP-07: `physical` waits for the last of them."""
    flags = ["--compaction-batch-limit=10", "--compaction-sleep-interval=1ms"]
    with single(tmp_path, *flags) as cluster:
        client = cluster.client(0)
        for _ in range(100):
            last = client.put(b"k", b"").header.revision
        before = metrics(cluster)
        client.compact(last, physical=True)
        assert increase(before, metrics(cluster), STEPS) >= 10


def test_commits_wait_for_the_interval_or_the_number_asked_for(tmp_path: Path) -> None:
    flags = ["--backend-batch-interval=1h", "--backend-batch-limit=50"]
    with single(tmp_path, *flags) as cluster:
        client = cluster.client(0)
        before = metrics(cluster)
        for _ in range(10):
            client.put(b"k", b"")
        assert increase(before, metrics(cluster), COMMITS) == 0
        for i in range(50):
            client.put(b"k/%d" % i, b"")
        wait_until(lambda: increase(before, metrics(cluster), COMMITS) > 0, PATIENCE_S, "a commit")
        cluster.kill(0)  # what no commit holds comes back from the log
        cluster.start(0)
        cluster.wait_healthy()
        assert client.get(b"k").kvs[0].version == 10


@pytest.mark.parametrize(("flag", "asked_before"), [("true", True), ("false", False)])
def test_an_election_begins_with_a_pre_vote_unless_that_is_switched_off(
    tmp_path: Path, flag: str, asked_before: bool
) -> None:
    with Cluster(2, tmp_path, extra_flags=[f"--pre-vote={flag}"]) as cluster:
        cluster.start_all()
        told = [line for i in range(2) for line in log_lines(cluster, i)]
        roles = {line["role"] for line in told if line.get("msg") == "raft state changed"}
        assert "candidate" in roles
        assert ("pre_candidate" in roles) == asked_before


def test_the_first_election_may_be_made_to_wait(tmp_path: Path) -> None:
    """Its ticks are not skipped: nobody leads long after a start that does skip them would."""
    (port,) = free_ports(1)
    flags = [
        "--election-timeout=50000",
        "--initial-election-tick-advance=false",
        f"--listen-metrics-urls=http://127.0.0.1:{port}",
    ]
    with Cluster(1, tmp_path, extra_flags=flags) as cluster:
        cluster.start(0)

        def up_for_two_seconds() -> bool:
            try:
                now = scrape(f"127.0.0.1:{port}")
            except OSError:
                return False
            assert now.sum("etcd_server_has_leader") == 0
            return time.time() - now.sum("process_start_time_seconds") > 2

        wait_until(up_for_two_seconds, PATIENCE_S, "two seconds without an election")
        assert cluster.terminate(0) == 0
    again = tmp_path / "again"
    again.mkdir()
    with single(again, "--election-timeout=50000") as cluster:
        assert metrics(cluster).sum("etcd_server_has_leader") == 1


def test_the_log_may_lie_on_a_disk_of_its_own(tmp_path: Path) -> None:
    wal = tmp_path / "other disk" / "wal"
    with single(tmp_path, f"--wal-dir={wal}") as cluster:
        cluster.client(0).put(b"k", b"v")
        assert [path.suffix for path in wal.iterdir() if path.suffix == ".wal"]
        assert not (cluster.members[0].data_dir / "member" / "wal").exists()
        cluster.kill(0)
        cluster.start(0)
        cluster.wait_healthy()
        assert cluster.client(0).get(b"k").kvs[0].value == b"v"


def test_log_lines_are_as_many_and_as_shaped_as_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    flags = ["--log-format=console", "--logger=zap", f"--log-outputs={path}"]
    with single(tmp_path, *flags) as cluster:
        assert "\tinfo\t" in path.read_text()
        assert cluster.terminate(0) == 0
        cluster.start(0, "--log-level=error")
        cluster.wait_healthy()
        told = path.read_text()
        assert not any(line.startswith("{") for line in told.splitlines())
        assert cluster.terminate(0) == 0
        assert path.read_text() == told


def test_a_config_file_stands_alone(tmp_path: Path) -> None:
    """Flags beside it are ignored, as in etcd, but for the one that names it."""
    with Cluster(1, tmp_path) as cluster:
        member = cluster.members[0]
        client, peer = f"http://{member.endpoint}", f"http://127.0.0.1:{member.peer_port}"
        path = tmp_path / "etcd.yml"
        path.write_text(
            f"name: from-file\ndata-dir: {tmp_path}/from-file\nlisten-client-urls: {client}\n"
            f"advertise-client-urls: {client}\nlisten-peer-urls: {peer}\n"
            f"initial-advertise-peer-urls: {peer}\ninitial-cluster: from-file={peer}\n"
            "max-txn-ops: 1\n"
        )
        cluster.start(0, f"--config-file={path}", "--max-txn-ops=100")
        cluster.wait_healthy()
        assert [m.name for m in cluster.client(0).member_list().members] == ["from-file"]
        assert not member.data_dir.exists()
        ops = [put_op(b"a", b""), put_op(b"b", b"")]
        refused(
            grpc.StatusCode.INVALID_ARGUMENT,
            "too many operations",
            lambda: cluster.client(0).txn(success=ops),
        )
