"""Histories survive their file, and what is no history is named by its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepsen import history, verdict
from jepsen.history import Fault, Op, Outcome, Sample
from jepsen.verdict import Validity, Verdict

texts = st.text(max_size=20)
times = st.integers(0, 1 << 62)
scalars = st.none() | st.booleans() | st.integers(-(1 << 63), 1 << 63) | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4), max_leaves=8)
ops = st.builds(
    Op,
    client=st.integers(0, 1000),
    workload=texts,
    f=texts,
    key=texts,
    value=values,
    start=times,
    end=times,
    outcome=st.sampled_from(Outcome),
    result=values,
    revision=st.integers(0, 1 << 63),
    member=texts,
    error=texts,
)
faults = st.builds(
    Fault, texts, st.lists(texts, max_size=3), times, times, texts, st.integers(0, 1 << 40)
)
samples = st.builds(
    Sample, times, st.dictionaries(texts, st.dictionaries(texts, scalars, max_size=3), max_size=3)
)
records = ops | faults | samples


@given(records)
def test_a_record_survives_its_line(record: history.Record) -> None:
    line = history.encode(record)
    assert "\n" not in line
    assert history.decode(line) == record


@given(texts)
def test_any_other_line_is_refused(line: str) -> None:
    with pytest.raises(history.BadHistory):
        history.decode(line)


def test_a_file_is_in_the_order_of_starts(tmp_path: Path) -> None:
    late, early = (
        Op(1, "register", "read", "k", None, start, start + 5, Outcome.OK) for start in (20, 10)
    )
    path = tmp_path / "history.jsonl"
    history.write(path, [late, Sample(15), early, Fault("kill", ["m1"], 12, 12)])
    assert [type(r) for r in history.read(path)] == [Op, Fault, Sample, Op]


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    history.write(path, [Sample(1)])
    path.write_text(path.read_text() + '{"type":"op","outcome":"perhaps"}\n')
    with pytest.raises(history.BadHistory, match=r"history\.jsonl:2: "):
        list(history.read(path))


@pytest.mark.parametrize(
    ("said", "worst"),
    [
        ([], Validity.UNKNOWN),
        ([Validity.VALID], Validity.VALID),
        ([Validity.VALID, Validity.UNKNOWN], Validity.UNKNOWN),
        ([Validity.UNKNOWN, Validity.INVALID, Validity.VALID], Validity.INVALID),
    ],
)
def test_unknown_never_counts_as_valid(said: list[Validity], worst: Validity) -> None:
    assert verdict.worst(Verdict("c", validity) for validity in said) is worst
