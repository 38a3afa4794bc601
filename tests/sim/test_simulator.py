"""The cluster keeps its promises under faults, and the simulator would tell if it did not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jepsen.sim.disk import DiskWriter
from jepsen.sim.loop import Violation
from jepsen.sim.plan import Plan
from jepsen.sim.simulator import run
from kvstore.lease.lessor import Lessor
from kvstore.mvcc.store import Event
from kvstore.mvcc.watch import WatchHub
from kvstore.node.member import Member
from kvstore.node.reads import ReadDone
from kvstore.storage.wal import Batch
from raft.log import Log
from tests.conftest import SEEDS, Background

ROOT = Path(__file__).parents[2]


def test_promises_hold_under_faults(simulated: Background) -> None:
    """JEP-01, 02, 04..09, 11 and 13, RFT-09..11, RFT-21, LSE-20, 21 and 24, WCH-22: what the
    checks look at all the time (long leases are checkpointed). Requests refused for certain never
    show, old revisions read as replayed."""
    code, told = simulated.wait()
    assert code == 0, told
    assert f"{SEEDS} seeds in " in told
    assert "failed: none" in told


def test_one_seed_does_something(sim_seed: int) -> None:
    outcome = run(Plan(sim_seed))
    assert outcome.counts["put"] > 0
    assert outcome.counts["linearizable read"] > 0
    assert outcome.counts["watch response"] > 0


def test_same_seed_gives_the_same_run_and_another_seed_another() -> None:
    first, again, other = (run(Plan(seed, members=3, chaos_s=10.0)) for seed in (5, 5, 6))
    assert first == again
    assert first.trace_hash != other.trace_hash


def test_run_does_not_depend_on_the_order_of_hashes() -> None:
    def digests(hash_seed: str) -> str:
        command = (sys.executable, "-m", "jepsen", "sim", "--hash", "--seeds", "3", "--chaos", "10")
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        return subprocess.run(
            command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True
        ).stdout

    digest = digests("1")
    assert len(digest.split()) == 3
    assert digest == digests("2")


def test_faults_and_rare_paths_do_occur() -> None:
    """Else the runs above would prove little."""
    counts: dict[str, int] = {}
    for seed in range(8):
        for what, count in run(Plan(seed, members=3)).counts.items():
            counts[what] = counts.get(what, 0) + count
    expected = {
        "crash", "crash_all", "partition", "one_way", "isolate_leader", "transfer", "pause",
        "slow_disk", "bad_network", "heal", "snapshot made", "snapshot installed", "compaction",
        "key expired", "renewal", "revocation", "txn succeeded", "txn failed", "watch progress",
        "watch overtaken by compaction", "full comparison",
        "renewal of a checkpointed lease", "renewal through a follower", "partial", "disk_fails",
        "died: fsync failed", "defragmented", "watch ended: etcdserver: no leader",
        "request in parts",
    }  # fmt: skip
    assert expected <= counts.keys()


# Broken members: each breaks one promise, which some seed must find.

SEEDS_TO_CATCH = 12


def caught(*texts: str, pre_vote: bool | None = None) -> bool:
    """Whether one of the seeds ends in a violation, the first one saying one of `texts`."""
    for seed in range(SEEDS_TO_CATCH):
        try:
            run(Plan(seed, members=3, chaos_s=20.0, pre_vote=pre_vote))
        except Violation as violation:
            assert any(text in str(violation) for text in texts), violation
            return True
    return False


def test_reads_without_a_read_index_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_at_once(self: Member, done: ReadDone) -> None:
        done(None)

    monkeypatch.setattr(Member, "read_index", read_at_once)
    assert caught("was known before it began")


def test_log_that_reports_before_it_is_durable_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    submit = DiskWriter.submit

    def report_at_once(self: DiskWriter, token: int, batch: Batch) -> None:
        submit(self, token, batch)
        self._loop.after(0, "too early", lambda: self._on_done(token), self._process)

    monkeypatch.setattr(DiskWriter, "submit", report_at_once)
    assert caught("is durable on")


def test_vote_for_a_shorter_log_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Log, "is_up_to_date", lambda self, index, term: True)
    assert caught("leader completeness", pre_vote=False)


def test_lost_watch_events_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    publish = WatchHub.publish

    def now_and_then(self: WatchHub, revision: int, events: list[Event], raft_term: int) -> None:
        if revision % 10:
            publish(self, revision, events, raft_term)

    monkeypatch.setattr(WatchHub, "publish", now_and_then)
    assert caught("instead of [(")


def test_state_that_depends_on_who_leads_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    revoke = Lessor.revoke

    def forgetful_followers(self: Lessor, lease_id: int) -> list[bytes]:
        keys = revoke(self, lease_id)
        return keys if self.is_primary else keys[1:]

    monkeypatch.setattr(Lessor, "revoke", forgetful_followers)
    assert caught("another member", "other events")
