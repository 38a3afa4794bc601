"""Auto-compaction by real processes."""

from __future__ import annotations

import itertools
from pathlib import Path

import grpc

from tests.e2e.cluster import Cluster, wait_until

DEADLINE_SECONDS = 60.0


def test_leader_alone_compacts_what_is_older_than_the_window(tmp_path: Path) -> None:
    """CMP-12: with a window of one second; a new leader goes on with it."""
    flags = ["--auto-compaction-mode=periodic", "--auto-compaction-retention=1s"]
    with Cluster(3, tmp_path, extra_flags=flags) as cluster:
        cluster.start_all()
        first = cluster.client(0).put(b"k", b"0").header.revision
        numbers = itertools.count(1)

        def compacted(revision: int) -> bool:
            """Whether `revision` is gone; each look writes a new one, so there is more to do."""
            cluster.client(through).put(b"k", b"%d" % next(numbers))
            try:
                cluster.client(through).get(b"k", revision=revision)
            except grpc.RpcError as refusal:
                assert refusal.code() == grpc.StatusCode.OUT_OF_RANGE
                return True
            return False

        leader = cluster.leader()
        through = cluster.followers()[0]
        wait_until(lambda: compacted(first), DEADLINE_SECONDS, "the first revision is compacted")
        assert compactions(cluster, leader)
        assert not any(compactions(cluster, i) for i in range(3) if i != leader)

        cluster.kill(leader)
        through = next(i for i in range(3) if i != leader)
        cluster.leader()
        later = cluster.client(through).put(b"k", b"later").header.revision
        wait_until(lambda: compacted(later), DEADLINE_SECONDS, "a new leader compacts")
        cluster.start(leader)
        cluster.wait_healthy()
        cluster.wait_equal_hashes()


def compactions(cluster: Cluster, i: int) -> int:
    text = cluster.members[i].log_path.read_text()
    return text.count("completed auto periodic compaction")
