"""The same runs on real log and LMDB files: the models of both are held against them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from jepsen.sim.files import FileDisk
from jepsen.sim.loop import Violation
from jepsen.sim.names import Names
from jepsen.sim.plan import Plan
from jepsen.sim.simulator import run
from kvstore.storage import wal as wal_module
from kvstore.storage.durable import sync_directory
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


def test_a_log_whose_new_segments_have_no_durable_name_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wal_module, "replace_durably", os.replace)
    with pytest.raises(Violation, match=r"the log reads back|Wal[A-Z]\w+:"):
        several()


def test_a_crash_takes_back_names_that_were_not_synced_and_no_other(tmp_path: Path) -> None:
    results = set()
    for seed in range(30):
        folder = tmp_path / str(seed) / "log"
        folder.mkdir(parents=True)
        names = Names(folder, Random(seed))
        for name in ("stays", "replaced", "removed"):
            (folder / name).write_text("old")
        with names.watched():
            sync_directory(str(folder))
        (folder / "new").write_text("new")
        (folder / "temporary").write_text("new")
        os.replace(folder / "temporary", folder / "replaced")
        (folder / "removed").unlink()
        names.crash()
        found = {path.name: path.read_text() for path in folder.iterdir()}
        assert names.crash() == 0  # what a crash leaves is durable
        assert found["stays"] == "old"
        results.add((found.get("new"), found["replaced"], found.get("removed")))
    assert results == {(a, b, c) for a in (None, "new") for b in ("old", "new")
                       for c in (None, "old")}  # fmt: skip
