"""A soak run goes on until time is up, and ends at the first finding with what repeats it."""

from __future__ import annotations

import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest

from jepsen.chaos.faults import FAULTS
from jepsen.soak.cli import soak
from jepsen.soak.turns import CUTS, MOST_CUTS, SIZES, Ended, Turn, carry_out, turns
from kvstore.testing.processes import wait_until


def turn(directory: Path, seed: int, program: str) -> Turn:
    command = (sys.executable, "-c", program)
    return Turn("chaos", seed, command, directory / str(seed), 5.0)


def never() -> float:
    return time.monotonic() + 1e6


def test_it_ends_at_the_first_finding_and_says_how_to_repeat_it(tmp_path: Path) -> None:
    plan = [
        turn(tmp_path, 1, "print('fine')"),
        turn(tmp_path, 2, "raise SystemExit(3)"),
        turn(tmp_path, 3, "print('lost write'); raise SystemExit(1)"),
        turn(tmp_path, 4, "print('never reached')"),
    ]
    said: list[str] = []
    assert soak(plan, never(), tmp_path, said.append) == 1
    text = "\n".join(said)
    assert f"repeat it: {plan[2].told}" in text
    assert "lost write" in text
    assert not plan[3].directory.exists()
    assert "1 invalid, 1 unknown, 1 valid" in (tmp_path / "summary.txt").read_text()


def test_only_a_turn_that_was_judged_valid_says_that_nothing_was_found(tmp_path: Path) -> None:
    unknown = turn(tmp_path, 1, "raise SystemExit(3)")
    valid = turn(tmp_path, 2, "print('fine')")
    assert soak([unknown], never(), tmp_path, lambda line: None) == 3
    assert soak([unknown, valid], never(), tmp_path, lambda line: None) == 0


def test_a_turn_that_crashes_is_a_finding(tmp_path: Path) -> None:
    assert carry_out(turn(tmp_path, 1, "raise OSError")).ended is Ended.BROKEN
    assert carry_out(turn(tmp_path, 2, "import os; os.abort()")).ended is Ended.BROKEN
    assert soak([turn(tmp_path, 3, "{}[0]")], never(), tmp_path, lambda line: None) == 1


def test_a_turn_leaves_no_process_behind(tmp_path: Path) -> None:
    """Members of a run that crashed would disturb all that come later."""
    start = "import subprocess; print(subprocess.Popen(['sleep', '1000']).pid)"
    done = carry_out(turn(tmp_path, 1, f"{start}; raise SystemExit(1)"))
    pid = int((done.turn.directory / "output.txt").read_text().split()[-1])
    wait_until(lambda: ended(pid), 30, "the process that it started is gone")


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_it_ends_when_time_is_up(tmp_path: Path) -> None:
    plan = turns(1, ("kill",), tmp_path, 1.0, power=False)
    assert soak(plan, time.monotonic(), tmp_path, lambda line: None) == 3
    assert list(tmp_path.iterdir()) == []


def test_turns_alternate_sizes_mixes_and_kinds_and_never_a_seed(tmp_path: Path) -> None:
    faults = tuple(FAULTS)
    made = list(islice(turns(5, faults, tmp_path, 60.0, power=True), 500))
    assert made == list(islice(turns(5, faults, tmp_path, 60.0, power=True), 500))
    chaos = [one for one in made if one.kind == "chaos"]
    assert {f"--size={size}" for size in SIZES} == {one.command[5] for one in chaos}
    mixes = [one.command[-1].removeprefix("--faults=").split(",") for one in chaos]
    assert {len(mix) == len(faults) for mix in mixes} == {True, False}
    assert {fault for mix in mixes for fault in mix} == set(faults)
    assert sum(one.amount for one in made if one.kind == "power") == MOST_CUTS
    assert MOST_CUTS % CUTS == 0
    assert len({one.told for one in made}) == len(made)
    assert not [t for t in islice(turns(5, faults, tmp_path, 60.0, power=False), 50)
                if t.kind == "power"]  # fmt: skip


def test_a_short_soak_run_writes_a_report_and_a_summary(tmp_path: Path) -> None:
    """The real thing, with the smallest first turn: time is up after it."""
    words = ["soak", "--seed=3", "--minutes=0.01", "--chaos-seconds=3", f"--out={tmp_path}"]
    done = subprocess.run(
        [sys.executable, "-m", "jepsen", *words],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "--seed=3" in (tmp_path / "summary.txt").read_text()
    report = (tmp_path / "chaos-3-3" / "report.html").read_text()
    assert "--seed=3" in report
    assert "<td>server<td>etcd Version: " in report


@pytest.mark.parametrize("words", [["--minutes", "soon"], ["--chaos-seconds", "-"]])
def test_bad_options_are_refused(words: list[str]) -> None:
    command = [sys.executable, "-m", "jepsen", "soak", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert words[0] in done.stderr
