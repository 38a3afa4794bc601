"""Power cuts on real file systems: nothing acknowledged is lost, every member starts again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jepsen.power import disk
from jepsen.power.disk import PowerDisk
from jepsen.power.run import cut_again_and_again
from jepsen.verdict import Validity

pytestmark = pytest.mark.skipif(bool(disk.missing()), reason=disk.missing() or "-")

CUTS = 20


def test_a_cut_loses_what_was_not_synced_and_nothing_else(tmp_path: Path) -> None:
    """Else the test below would prove nothing."""
    made = PowerDisk(tmp_path, "disk")
    try:
        for name, sync in (("synced", True), ("lost", False)):
            descriptor = os.open(made.folder / name, os.O_CREAT | os.O_WRONLY)
            os.write(descriptor, b"x" * 5000)
            if sync:
                os.fsync(descriptor)
                folder = os.open(made.folder, os.O_RDONLY)
                os.fsync(folder)
                os.close(folder)
            os.close(descriptor)
        made.cut()
        with pytest.raises(OSError, match="Input/output"):
            (made.folder / "later").write_bytes(b"x")
        made.restore()
        assert (made.folder / "synced").read_bytes() == b"x" * 5000
        lost = made.folder / "lost"
        assert not lost.exists() or lost.stat().st_size == 0
    finally:
        made.remove()


def test_a_starved_disk_takes_writes_whose_syncs_fail_and_forgets_them(tmp_path: Path) -> None:
    """As a drive that breaks; what was written before stays."""
    made = PowerDisk(tmp_path, "disk")
    try:
        descriptor = os.open(made.folder / "file", os.O_CREAT | os.O_WRONLY)
        os.write(descriptor, b"x" * 5000)
        os.fsync(descriptor)
        made.starve()
        assert os.pwrite(descriptor, b"y" * 50_000, 1 << 20) == 50_000
        with pytest.raises(OSError, match="No space"):
            os.fsync(descriptor)
        os.close(descriptor)
        made.cut()
        made.restore()
        content = (made.folder / "file").read_bytes()
        assert content.startswith(b"x" * 5000)
        assert b"y" not in content
    finally:
        made.remove()


def test_scenario_14143_twenty_cuts_lose_no_acknowledged_write(tmp_path: Path) -> None:
    """One member or all of them at once, at any moment."""
    report = cut_again_and_again(tmp_path, cuts=CUTS, seed=11, say=lambda line: None)
    assert report.verdict.validity is Validity.VALID, report.verdict.findings
    assert report.cuts == CUTS
    assert 0 < report.of_all < CUTS
    assert report.acknowledged >= CUTS * 20
