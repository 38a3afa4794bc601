"""The same runs on real log and LMDB files: the models of both are held against them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jepsen.sim.files import FileDisk
from jepsen.sim.loop import Violation
from jepsen.sim.plan import Plan
from jepsen.sim.simulator import run
from kvstore.storage.wal import Batch, Recovered, Wal

CRASHES = Plan(0, members=3, chaos_s=20.0, files=True)


def several() -> None:
    for seed in range(6):
        run(replace(CRASHES, seed=seed))


@pytest.mark.parametrize("seed", range(4))
def test_a_run_takes_the_same_course_on_files(seed: int) -> None:
    plan = Plan(seed, chaos_s=15.0)
    assert run(replace(plan, files=True)) == run(replace(plan, files=False))


def test_torn_writes_do_occur_and_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    torn = []
    tear = FileDisk.tear

    def note(self: FileDisk, batches: list[Batch]) -> None:
        tear(self, batches)
        torn.append(batches)

    monkeypatch.setattr(FileDisk, "tear", note)
    several()
    assert torn


def test_a_log_that_reads_back_otherwise_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Wal.open

    def forgets(directory: str, *, segment_bytes: int) -> tuple[Wal, Recovered]:
        wal, recovered = opened(directory, segment_bytes=segment_bytes)
        return wal, replace(recovered, entries=recovered.entries[:-1])

    monkeypatch.setattr(Wal, "open", forgets)
    with pytest.raises(Violation, match="the log reads back"):
        several()
