"""A mix of chaos on real processes: it breaks things, proves that it did, and judges."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from jepsen import history
from jepsen.chaos.cli import parser, summary
from jepsen.chaos.faults import FAULTS
from jepsen.chaos.runner import HISTORY
from jepsen.history import Fault, Op, Outcome, Sample
from jepsen.verdict import Validity
from jepsen.workloads import WORKLOADS
from tests.conftest import Background
from tests.jepsen import mix

HAPPENED = 0.7
"""Share of the possible kinds of faults that must come: a slow machine gets through fewer."""


def test_under_all_faults_and_all_workloads_every_promise_is_kept(mixed: Background) -> None:
    """JEP-12: every fault that happened had an effect, and each workload was judged."""
    code, told = mixed.wait()
    assert code == 0, told
    result, said = mix.read(mixed.directory)
    assert result.validity is Validity.VALID, summary(result) + "\n".join(said)

    faults = [record for record in result.records if isinstance(record, Fault)]
    kinds = {fault.name for fault in faults}
    assert kinds | set(result.left_out) <= set(FAULTS)
    assert len(kinds) >= HAPPENED * len(set(FAULTS) - set(result.left_out))
    assert len(said) >= len(faults) + len(result.left_out)

    ops = [record for record in result.records if isinstance(record, Op)]
    assert {op.workload for op in ops if op.outcome is Outcome.OK} == set(WORKLOADS)
    judged = {verdict.checker for verdict in result.verdicts}
    assert judged >= {"recovery", "hashes", "logs", "worth", "monotonic", "durability"}
    assert judged >= set(WORKLOADS) - {"register"} | {"linearizable", "revisions"}
    read = list(history.read(mixed.directory / "run" / HISTORY))
    assert Counter(map(type, read)) == Counter(map(type, result.records))
    assert {type(record) for record in read} == {Op, Fault, Sample}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["chaos", "--faults", "earthquake"], "is none of"),
        (["chaos", "--workloads", "dreams"], "is none of"),
        (["chaos", "--size", "12"], "12 is not 1 to 9"),
        (["chaos", "--rate", "0"], "0 is not greater than 0"),
        (["chaos", "--seconds=-5"], "-5 is not greater than 0"),
        (["chaos", "--binary", "/nowhere/etcd"], "there is no program /nowhere/etcd"),
        (["chaos", "--mutant", "vote-twice"], "there is no 'vote-twice'; close to it: votes-twice"),
        (["sim", "--seeds", "0"], "0 is not at least 1"),
        (["power", "--cuts", "0"], "0 is not at least 1"),
        (["sim", "--members", "9"], "9 is not 0 to 7"),
        (["soak", "--minutes=-1"], "-1 is not greater than 0"),
        (["soak", f"--out={__file__}"], "--out: "),
        (["chaos", "--faults="], "names none"),
        (["chaos", "--workloads=,"], "names none"),
        (["chaos", "--flags='"], "No closing quotation"),
        (["chaos", "--binary=etcd", "--mutant=votes-twice"], "not allowed with"),
        (["sim", "--transactors=5"], "5 is not -1 to 2"),
        (["sim", "--watchers=9"], "9 is not -1 to 4"),
        (["sim", "--jobs=0"], "0 is not at least 1"),
        (["sim", "--chaos=-5"], "-5 is not greater than 0"),
        (["mutants", "--topic=zzz"], "invalid choice: 'zzz'"),
        (["chaos", "--size=1", "--binary=/bin/ls"], "the cluster did not start: m0 ended with"),
        (["chaos", "--size=1", "--flags=--nonsense"], "the cluster did not start: m0 ended with"),
    ],
)
def test_wrong_options_are_refused_in_a_line(
    arguments: list[str], told: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jepsen", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    if "did not start" not in told:
        assert not list(tmp_path.iterdir()), "a folder is left for nothing"


def test_a_file_that_is_no_program_is_told_in_a_line(tmp_path: Path) -> None:
    program = tmp_path / "server"
    program.write_text("no program")
    program.chmod(0o755)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "jepsen",
            "chaos",
            f"--binary={program}",
            f"--out={tmp_path / 'run'}",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "the cluster did not start: [Errno 8] Exec format error" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_says_that_it_did_not_find_the_mutant(tmp_path: Path) -> None:
    """Killed processes lose nothing that was written: it takes a power cut."""
    words = ["--mutant=log-not-synced", "--faults=kill", "--workloads=register", "--seconds=2"]
    done = subprocess.run(
        [sys.executable, "-m", "jepsen", "chaos", "--size=1", *words, f"--out={tmp_path}"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode != 1, done.stdout + done.stderr
    assert "mutant log-not-synced: NOT found" in done.stdout
    assert f"judge again: python -m jepsen check {tmp_path}\n" in done.stdout


def test_the_help_says_what_each_line_of_the_summary_means() -> None:
    verdicts = {validity.value for validity in Validity}
    told = parser().format_help()
    for word in (
        *verdicts,
        "checked",
        "recovery",
        "hashes",
        "logs",
        "faults",
        "worth",
        "monotonic",
    ):
        assert f"  {word} " in told
