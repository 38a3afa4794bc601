"""A history file is judged again as its run was: the same summary, and an exit code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from jepsen import history
from jepsen.chaos.judging import judge, summary
from jepsen.chaos.recorder import Recorder
from jepsen.chaos.runner import HISTORY
from jepsen.check import main
from jepsen.history import Fault, Op, Outcome, Record
from jepsen.workloads import WORKLOADS


def recorded() -> list[Record]:
    """A register written and read by turns, looked at in the end, and a fault that bit."""
    ops = []
    for number in range(60):
        start, revision = 20 * number, number + 2
        ops.append(op("write", number, start, None, revision))
        ops.append(op("read", None, start + 10, [number, revision], revision))
    ops.append(op("read", None, 2000, [59, 61], 61, client=-1))
    return [*ops, Fault("kill", ["m0"], 5, 9, "", 1)]


def op(f: str, value: Any, start: int, result: Any, revision: int, client: int = 0) -> Op:
    made = Op(client, "register", f, "k", value, start, start + 5, Outcome.OK, result, revision)
    return replace(made, member="m0")


def test_it_prints_the_summary_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = recorded()
    path, page = tmp_path / "history.jsonl", tmp_path / "report.html"
    history.write(path, records)
    code = main([str(path), "--report", str(page)])
    printed = capsys.readouterr().out
    recorder = Recorder()
    recorder.records = list(history.read(path))
    verdicts = judge(recorder.records, [WORKLOADS["register"](recorder, Random(0))])
    assert summary(verdicts) in printed
    assert {v.checker for v in verdicts} == {
        *("worth", "monotonic", "durability", "linearizable", "revisions"),
    }
    assert code == 0
    assert page.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("records", "code"),
    [
        ([Op(0, "set", "add", "", 1, 0, 1, Outcome.OK, None, 2),
          Op(-1, "set", "read", "", None, 5, 6, Outcome.OK, [], 2)], 1),
        ([Op(0, "set", "add", "", 1, 0, 1, Outcome.OK, None, 2),
          Op(-1, "set", "read", "", None, 5, 6, Outcome.OK, [1], 2)], 3),
        ([Op(0, "dream", "add", "", 1, 0, 1, Outcome.OK)], 3),
    ],
)  # fmt: skip
def test_the_exit_code_is_the_verdict(records: list[Record], code: int, tmp_path: Path) -> None:
    """1 for a lost write; 3 where too little was done to tell."""
    history.write(tmp_path / "h.jsonl", records)
    assert main([str(tmp_path / "h.jsonl")]) == code


def test_the_directory_of_a_run_is_judged_as_its_history(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    history.write(tmp_path / HISTORY, recorded())
    code = main([str(tmp_path / HISTORY)])
    told = capsys.readouterr().out
    assert (main([str(tmp_path)]), capsys.readouterr().out) == (code, told)
    assert main([str(tmp_path / "members")]) == 2


def test_what_is_no_history_is_refused_by_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "h.jsonl"
    path.write_text('{"type":"op"}\n')
    assert main([str(path)]) == 2
    assert f"{path}:1" in capsys.readouterr().err
    assert main([str(tmp_path / "absent")]) == 2
