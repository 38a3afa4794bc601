"""Members whose data went wrong: found, named, never served. Real damage in real files."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from tests.e2e.client import Client
from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.damage import flip_bit, forge_value
from tests.e2e.etcdctl import ok

CORRUPT = 2
DEADLINE_SECONDS = 60.0
INITIAL = "--feature-gates=InitialCorruptCheck=true,CompactHashCheck=true"
NO_INITIAL = "--feature-gates=CompactHashCheck=true"
KEY, VALUE, FORGED = b"ledger", b"value that is easy to find", b"value that is hard to find"


def alarmed(client: Client) -> list[int]:
    """Ids of the members with a CORRUPT alarm."""
    return [alarm.memberID for alarm in client.alarm(0, kind=CORRUPT).alarms]


def member_id(cluster: Cluster, i: int) -> int:
    return int(cluster.client(i).status().header.member_id)


def damage_a_follower(cluster: Cluster) -> tuple[int, int, int]:
    """Write the key, forge it on a stopped follower; return (it, its id, another member)."""
    cluster.client(0).put(KEY, VALUE)
    damaged = cluster.followers()[0]
    its_id = member_id(cluster, damaged)
    wait_until(
        lambda: bool(cluster.client(damaged).get(KEY, serializable=True).kvs),
        DEADLINE_SECONDS,
        "the follower has the key",
    )
    cluster.terminate(damaged)
    forge_value(cluster.members[damaged].data_dir, KEY, VALUE, FORGED)
    return damaged, its_id, next(i for i in range(3) if i != damaged)


def assert_writes_are_refused(client: Client) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        client.put(b"another", b"x")
    assert caught.value.code() == grpc.StatusCode.DATA_LOSS
    assert caught.value.details() == "etcdserver: corrupt cluster"


def test_member_that_differs_does_not_start_and_after_a_compaction_it_is_named(
    tmp_path: Path,
) -> None:
    """MNT-23, MNT-24: the initial check refuses to start it; without that check the comparison of
    compactions raises CORRUPT for it alone, which stops all writes until it is disarmed."""
    flags = [INITIAL, "--compact-hash-check-time=300ms"]
    with Cluster(3, tmp_path, extra_flags=flags) as cluster:
        cluster.start_all()
        damaged, its_id, other = damage_a_follower(cluster)

        cluster.start(damaged)
        assert cluster.wait_exit(damaged, timeout=DEADLINE_SECONDS) == 1
        assert "found data inconsistency with peers" in cluster.members[damaged].log_tail()

        cluster.start(damaged, NO_INITIAL)
        cluster.wait_healthy()
        assert cluster.client(damaged).get(KEY, serializable=True).kvs[0].value == FORGED
        client = cluster.client(other)
        assert alarmed(client) == []
        revision = client.put(b"more", b"x").header.revision
        client.compact(revision)
        wait_until(lambda: bool(alarmed(client)), DEADLINE_SECONDS, "a CORRUPT alarm")
        assert alarmed(client) == [its_id]
        assert_writes_are_refused(client)
        assert ok(cluster.etcdctl("alarm", "list")).strip() == f"memberID:{its_id} alarm:CORRUPT"
        assert client.get(KEY).kvs[0].value == VALUE


def test_sound_members_pass_all_checks(tmp_path: Path) -> None:
    """MNT-23, MNT-24: restarts and compactions under all checks raise nothing."""
    flags = [INITIAL, "--compact-hash-check-time=200ms", "--corrupt-check-time=200ms"]
    with Cluster(3, tmp_path, extra_flags=flags) as cluster:
        cluster.start_all()
        client = cluster.client(0)
        for number in range(6):
            revision = client.put(KEY, b"%d" % number).header.revision
            client.compact(revision - 1)
        cluster.kill_all()
        cluster.start_all()
        revision = client.put(KEY, b"again").header.revision
        client.compact(revision, physical=True)
        for line in (
            "initial corruption checking passed; no corruption",
            "successfully checked hash on whole cluster",
            '"msg":"finished peer corruption check","number-of-peers-checked":2',
        ):
            wait_until(
                lambda line=line: any(line in m.log_path.read_text() for m in cluster.members),
                DEADLINE_SECONDS,
                f"a log has: {line}",
            )
        cluster.wait_equal_hashes()
        assert alarmed(client) == []


def test_periodic_check_names_the_member_that_differs(tmp_path: Path) -> None:
    """MNT-24: --corrupt-check-time compares the data themselves; no compaction is needed."""
    with Cluster(3, tmp_path, extra_flags=["--corrupt-check-time=300ms"]) as cluster:
        cluster.start_all()
        damaged, its_id, other = damage_a_follower(cluster)
        cluster.start(damaged)
        cluster.wait_healthy()
        client = cluster.client(other)
        wait_until(lambda: bool(alarmed(client)), DEADLINE_SECONDS, "a CORRUPT alarm")
        assert alarmed(client) == [its_id]
        assert_writes_are_refused(client)
        assert ok(cluster.etcdctl("alarm", "disarm")).strip() == (
            f"memberID:{its_id} alarm:CORRUPT"
        )


def test_defragmentation_that_meets_a_flipped_bit_raises_the_alarm(tmp_path: Path) -> None:
    """Nobody may ever read the value: who copies the file is the first to see it."""
    with Cluster(1, tmp_path) as cluster:
        cluster.start_all()
        client = cluster.client(0)
        client.put(KEY, VALUE)
        data_dir = cluster.members[0].data_dir
        wait_until(
            lambda: VALUE in (data_dir / "member" / "snap" / "db").read_bytes(),
            DEADLINE_SECONDS,
            "the value is in the file",
        )
        flip_bit(data_dir, VALUE)
        with pytest.raises(grpc.RpcError, match="does not match its checksum"):
            client.defragment()
        wait_until(lambda: bool(alarmed(client)), DEADLINE_SECONDS, "a CORRUPT alarm")
        assert alarmed(client) == [member_id(cluster, 0)]


def test_scenario_34_flipped_bit_is_never_served(tmp_path: Path) -> None:
    """Scenario 34: on a running member the read fails and the member is named; it does not start
    again on the damaged file; the others serve the value."""
    with Cluster(3, tmp_path) as cluster:
        cluster.start_all()
        cluster.client(0).put(KEY, VALUE)
        damaged = cluster.followers()[0]
        its_id = member_id(cluster, damaged)
        other = next(i for i in range(3) if i != damaged)
        data_dir = cluster.members[damaged].data_dir
        wait_until(
            lambda: VALUE in (data_dir / "member" / "snap" / "db").read_bytes(),
            DEADLINE_SECONDS,
            "the value is in the file",
        )
        flip_bit(data_dir, VALUE)

        def read_from_the_file() -> bool:
            # While the value is in the pending buffer too, it is served from there.
            try:
                return bool(cluster.client(damaged).get(KEY).kvs[0].value != VALUE)
            except grpc.RpcError:
                return True

        wait_until(read_from_the_file, DEADLINE_SECONDS, "the value is read from the file")
        for serializable in (True, False):
            with pytest.raises(grpc.RpcError) as caught:
                cluster.client(damaged).get(KEY, serializable=serializable)
            assert caught.value.code() == grpc.StatusCode.INTERNAL
        with pytest.raises(grpc.RpcError):
            cluster.client(damaged).defragment()
        assert cluster.client(other).get(KEY).kvs[0].value == VALUE
        wait_until(
            lambda: bool(alarmed(cluster.client(other))), DEADLINE_SECONDS, "a CORRUPT alarm"
        )
        assert alarmed(cluster.client(other)) == [its_id]

        cluster.kill(damaged)
        cluster.start(damaged)
        assert cluster.wait_exit(damaged, timeout=DEADLINE_SECONDS) == 1
        assert "does not match its checksum" in cluster.members[damaged].log_tail()
        assert cluster.client(other).get(KEY).kvs[0].value == VALUE
