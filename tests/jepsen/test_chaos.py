"""A short chaos run on real processes: it breaks things, proves that it did, and judges."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from jepsen import history
from jepsen.chaos.cli import summary
from jepsen.chaos.runner import Plan, run
from jepsen.history import Fault, Op, Outcome, Sample
from jepsen.verdict import Validity


def test_a_run_breaks_members_and_finds_that_they_kept_their_promises(tmp_path: Path) -> None:
    """JEP-12: every fault that happened had an effect, and each workload was judged."""
    said: list[str] = []
    plan = Plan(
        seed=4,
        workloads=("register", "set", "watch"),
        faults=("kill", "isolate-leader", "pause", "compact"),
        seconds=14.0,
        fault_s=1.5,
        pause_s=1.0,
        clients=3,
        directory=tmp_path,
    )
    result = run(plan, said.append)
    assert result.validity is Validity.VALID, summary(result) + "\n".join(said)
    faults = [record for record in result.records if isinstance(record, Fault)]
    assert len(faults) >= 3
    assert sum(fault.effect for fault in faults) > 0
    assert len(said) == len(faults)
    read = list(history.read(tmp_path / "history.jsonl"))
    assert Counter(map(type, read)) == Counter(map(type, result.records))
    assert {type(record) for record in read} == {Op, Fault, Sample}
    judged = {verdict.checker for verdict in result.verdicts}
    assert judged == {
        *("recovery", "hashes", "logs", "worth"),
        *("linearizable", "revisions", "set", "watch"),
    }
    assert any(op.outcome is Outcome.OK for op in read if isinstance(op, Op))


@pytest.mark.parametrize("arguments", [["--faults", "earthquake"], ["--workloads", "dreams"]])
def test_unknown_names_are_refused_with_the_known_ones(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kvstore", "chaos", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "is none of" in done.stderr
