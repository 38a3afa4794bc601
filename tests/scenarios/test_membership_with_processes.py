"""Membership of real members over restarts: scenario 39."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.cluster import wait_until
from tests.e2e.growing import GrowingCluster, rejected

IN_SYNC = "etcdserver: can only promote a learner member which is in sync with leader"


def listed(cluster: GrowingCluster, asked: int) -> list[tuple[int, str, bool, tuple[str, ...]]]:
    """Id, name, role and peer URLs of each member, as one of them has it itself."""
    members = cluster.client(asked).member_list(linearizable=False).members
    return sorted((m.ID, m.name, m.isLearner, tuple(m.peerURLs)) for m in members)


def test_scenario_15096_membership_is_one_after_promotion_update_restart_and_force(
    tmp_path: Path,
) -> None:
    """Scenario 39 (PR 15096, 19557, 21694, 10998, PR 20995, 20339): a learner is not promoted
    before it has started; what was promoted and updated is so after a restart of all, whose flags
    still say what was on the first day; and one member forced to go on alone knows nobody else."""
    with GrowingCluster(1, tmp_path, "--snapshot-count=20") as cluster:
        cluster.start_all()
        learner = cluster.add(learner=True)
        learner_id = cluster.id_of(learner)
        assert rejected(lambda: cluster.client(0).member_promote(learner_id))[1] == IN_SYNC
        cluster.start(learner)
        cluster.wait_serves(learner)
        cluster.wait_promoted(learner, asked=0)
        moved = "http://127.0.0.1:1"  # an address more, at which nobody is
        cluster.client(0).member_update(learner_id, cluster.members[learner].peer_url, moved)
        for number in range(50):  # both compact their logs
            last = cluster.client(learner).put(b"k", b"%d" % number).header.revision
        expected = listed(cluster, 0)
        assert [learner for _, _, learner, _ in expected] == [False, False]
        assert moved in {url for *_, urls in expected for url in urls}

        cluster.kill_all()
        cluster.start_all(timeout=60)
        for number in range(2):
            assert listed(cluster, number) == expected
        assert cluster.wait_equal_hashes() >= last

        cluster.kill_all()
        cluster.start(learner, "--force-new-cluster")
        wait_until(lambda: cluster._serves(learner), 60.0, "it serves alone")
        for restart in range(2):
            if restart:
                cluster.kill(learner)
                cluster.start(learner)
                wait_until(lambda: cluster._serves(learner), 60.0, "it serves alone")
            assert [entry[0] for entry in listed(cluster, learner)] == [learner_id]
            assert cluster.client(learner).put(b"alone").header.revision > last
