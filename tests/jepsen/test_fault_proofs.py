"""What a fault claims is proven: its effect, its target, and what members made of it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest

from jepsen import history
from jepsen.chaos.client import Connection
from jepsen.chaos.faults import FAULTS, Done, Fault, base, disks, snapshots
from jepsen.chaos.faults.damage import compare_logs, flip_bits, read_back
from jepsen.chaos.faults.disks import LEAST_SYNCS, FullDisk, SlowDisk, SyncTime, slowed
from jepsen.chaos.faults.processes import Terminate
from jepsen.chaos.faults.snapshots import Refused, SnapshotRestore, restore
from jepsen.chaos.recorder import Recorder
from jepsen.chaos.runner import HISTORY, Plan, run
from jepsen.history import Op
from jepsen.power import disk
from jepsen.verdict import Validity
from jepsen.workloads.watch import Watch
from kvstore.storage.errors import StorageError
from kvstore.storage.wal import Batch, Wal
from kvstore.testing import Cluster, NotInTime, wait_until
from raft import NORMAL, HardState

DEADLINE_S = 60.0


@pytest.mark.parametrize("name", ["kill-leader", "pause-leader", "isolate-leader", "move-leader"])
def test_a_fault_of_the_leader_does_not_happen_without_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "LEADER_S", 0.1)
    with Cluster(1, tmp_path) as cluster, pytest.raises(NotInTime, match="a member leads"):
        FAULTS[name](cluster, Random(1)).begin()


def test_a_member_that_does_not_end_gracefully_is_a_finding(tmp_path: Path) -> None:
    script = (
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\n"
        "print('ready', flush=True)\n"
        "while True: signal.pause()\n"
    )
    with Cluster(1, tmp_path, program=(sys.executable, "-c", script), links=False) as cluster:
        cluster.start(wait=False)
        log = cluster.members[0].log_path
        wait_until(lambda: "ready" in log.read_text(), DEADLINE_S, "it takes signals")
        done = Terminate(cluster, Random(1)).begin()
    (finding,) = done.findings
    assert finding.kind == "no graceful end"
    assert "ended with 3" in finding.text


def test_a_slow_disk_counts_nothing_of_its_own(tmp_path: Path) -> None:
    """No member runs, so none is hit, however much is written beside it."""
    with Cluster(1, tmp_path, links=False) as cluster:
        fault = SlowDisk(cluster, Random(1))
        done = fault.begin()
        wait_until(lambda: any(tmp_path.glob("noise-*")), DEADLINE_S, "it writes")
        fault.end(done)
    assert done.effect == 0
    assert not list(tmp_path.glob("noise-*"))


@pytest.mark.parametrize(
    ("under", "effect"),
    [
        ([(100, 0.30), (100, 0.40)], 400),
        ([(100, 0.16), (100, 0.30)], 160),  # 1.53 times the time of before
        ([(100, 0.14), (100, 0.30)], 0),
        ([(100, 0.50), (100, 0.01)], 210),  # one that was faster counts against the others
        ([(100, 0.40), (100, 0.01)], 0),
        ([(8, 9.0), (9, 9.0)], 0),
        ([(8, 9.0), (-50, -9.0)], 0),  # started anew meanwhile
        ([(0, 0.0), (0, 0.0)], 0),
    ],
)
def test_a_slow_disk_is_one_whose_syncs_take_half_as_long_again(
    under: list[tuple[float, float]], effect: int
) -> None:
    before = [SyncTime(100, 0.1), SyncTime(50, 0.1)]
    shown = list(zip(before, [SyncTime(*times) for times in under], strict=True))
    longer, detail = slowed(shown)
    assert longer == effect
    assert ("ms longer" if effect else "nothing proven") in detail


def test_a_slow_disk_needs_syncs_to_compare_with() -> None:
    assert slowed([(SyncTime(LEAST_SYNCS, 0.01), SyncTime(LEAST_SYNCS, 1.0))])[0] == 990
    assert slowed([(SyncTime(LEAST_SYNCS - 1, 0.01), SyncTime(LEAST_SYNCS, 1.0))])[0] == 0
    assert slowed([])[0] == 0


def test_a_disk_that_cannot_be_made_leaves_the_fault_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = disk.missing()
    if why:
        pytest.skip(why)
    monkeypatch.setattr(disks, "ROOM_BYTES", -1)
    with ExitStack() as stack, Cluster(1, tmp_path, links=False) as cluster:
        FullDisk.prepare(cluster, stack)
        assert "mount" in FullDisk.available(cluster)


def test_the_disk_that_fills_up_takes_all_of_its_size_first(tmp_path: Path) -> None:
    """It would fail for want of memory behind it, and stay so, in a long run."""
    why = disk.missing()
    if why:
        pytest.skip(why)
    with ExitStack() as stack, Cluster(1, tmp_path, links=False) as cluster:
        FullDisk.prepare(cluster, stack)
        folder = cluster.members[0].data_dir.parent
        with pytest.raises(OSError, match="No space left"):
            write_for_ever(folder / "all")
        written = (folder / "all").stat().st_size
        (folder / "all").unlink()
        (folder / "more").write_bytes(b"it can still be written")
    assert written > disk.SIZE_BYTES // 2


def write_for_ever(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 20))
            os.fsync(file.fileno())


def a_log(folder: Path, entries: int = 40) -> Path:
    Wal.create(str(folder), b"{}").close()
    wal, _ = Wal.open(str(folder))
    for index in range(1, entries + 1):
        wal.append([Batch(HardState(1, 0, index), index, [(1, NORMAL, b"%d" % index * 50)])])
    wal.close()
    return folder


def test_damage_that_a_log_takes_in_is_a_finding(tmp_path: Path) -> None:
    """Scenario 34: with the damage named where it is read back, and harmless where it is not."""
    folder = a_log(tmp_path / "wal")
    before = read_back(folder)
    assert not isinstance(before, StorageError)
    assert compare_logs(before, before) == ("its log reads back as before", None)

    (path,) = folder.glob("*.wal")
    flip_bits(path, Random(3), 8)
    refused = read_back(folder)
    assert isinstance(refused, StorageError)
    _, finding = compare_logs(before, refused)
    assert finding is not None
    assert finding.kind == "damage is served"

    other = read_back(a_log(tmp_path / "other", 39))
    told, finding = compare_logs(before, other)
    assert (told, finding) == ("the last 1 entries are cut as a torn write", None)
    _, finding = compare_logs(other, before)
    assert finding is not None
    assert finding.kind == "damaged record accepted"


class EndsAnotherMember(Fault):
    """Claims to end nobody, and fails behind the end of a member."""

    name = "ends-a-member"

    def begin(self) -> Done:
        self.cluster.kill(0)
        raise RuntimeError("it could not be brought about")


class EndsBeforeItActs(EndsAnotherMember):
    """May end its targets, and has none yet."""

    ends_members = True


class EndsItsTarget(EndsBeforeItActs):
    """Fails as well, but it has said whom it acts on."""

    def begin(self) -> Done:
        self.hits(0)
        return super().begin()


@pytest.mark.parametrize(
    ("kind", "ended"),
    [(EndsAnotherMember, True), (EndsBeforeItActs, True), (EndsItsTarget, False)],
)
def test_a_member_that_ends_under_a_fault_that_does_not_end_it_is_a_finding(
    kind: type[Fault], ended: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FAULTS, kind.name, kind)
    plan = Plan(
        1,
        workloads=("register",),
        faults=(kind.name,),
        size=1,
        seconds=0.5,
        pause_s=0.3,
        directory=tmp_path,
    )
    result = run(plan, lambda line: None)
    (logs,) = (verdict for verdict in result.verdicts if verdict.checker == "logs")
    assert {f.kind for f in logs.findings} == ({"a member ended by itself"} if ended else set())
    assert all("m0 ended with -9" in finding.text for finding in logs.findings)
    assert (result.validity is Validity.INVALID) == ended


def _interrupted(process: subprocess.Popen[str], text: str) -> str:
    """Press Ctrl-C when a line with this text comes; return the last line that was said."""
    assert process.stdout is not None
    try:
        while text not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGINT
    assert "Traceback" not in said
    return said.strip().splitlines()[-1]


@pytest.mark.parametrize("fault", ["compact", "slow-disk"])
def test_an_interrupted_run_ends_in_a_line_and_leaves_its_history(
    fault: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "jepsen", "chaos", "--size=1"]
    command += ["--workloads=register,watch,kube"]
    times = ("--pause-seconds=0.2", "--fault-seconds=100")
    with subprocess.Popen(
        [*command, f"--faults={fault}", *times, f"--out={tmp_path / 'run'}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        said = _interrupted(process, f"{fault} m0")
    assert "interrupted" in said
    records = history.read(tmp_path / "run" / HISTORY)
    recorded = {(record.workload, record.f) for record in records if isinstance(record, Op)}
    assert {workload for workload, _ in recorded} == {"register", "watch", "kube"}
    assert ("watch", "watch") in recorded, "of streams that were open, too"


def test_a_run_interrupted_at_its_start_names_no_history_that_is_not_there(tmp_path: Path) -> None:
    written = tmp_path / "run" / HISTORY
    with subprocess.Popen(
        [sys.executable, "-m", "jepsen", "chaos", "--size=1", f"--out={tmp_path / 'run'}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        said = _interrupted(process, "seed")
    assert said.startswith("interrupted")
    assert (str(written) in said) == written.exists()


def test_a_cancelled_transaction_is_recorded_with_all_its_keys() -> None:
    """Any of them may have been written."""

    async def cancelled() -> list[history.Record]:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            workload = Watch(Recorder(), Random(1))
            connection = Connection("m0", f"127.0.0.1:{silent.getsockname()[1]}")
            step = asyncio.create_task(workload._put_some(1, connection))
            await asyncio.sleep(0)  # it begins
            step.cancel()
            await asyncio.gather(step, return_exceptions=True)
            await connection.close()
            return workload.recorder.records

    keys = [record.key for record in asyncio.run(cancelled()) if isinstance(record, Op)]
    assert len(set(keys)) >= 2


def test_a_snapshot_that_the_machine_has_no_place_for_is_no_finding(tmp_path: Path) -> None:
    with Cluster(1, tmp_path / "taken", links=False) as taken:
        taken.start()
        path = tmp_path / "snapshot.db"
        SnapshotRestore(taken, Random(1))._save(0, path)
        with Cluster(1, tmp_path / "restored", links=False) as single:
            port = int(single.members[0].own_endpoint.rpartition(":")[2])
            with (
                socket.create_server(("127.0.0.1", port)),
                pytest.raises(RuntimeError, match=r"(?i)address already in use"),
            ):
                restore(single, path)
    path.write_bytes(b"no database")
    with Cluster(1, tmp_path / "refused", links=False) as single, pytest.raises(Refused):
        restore(single, path)


def test_a_restore_that_takes_too_long_is_no_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "TIMEOUT_S", 0.0)
    with Cluster(1, tmp_path, links=False) as single, pytest.raises(NotInTime):
        restore(single, tmp_path / "snapshot.db")
