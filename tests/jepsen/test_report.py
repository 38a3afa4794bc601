"""The report says the verdict first, loads nothing, and escapes what clients wrote."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from random import Random

import pytest

from jepsen.history import Fault, Op, Outcome, Record, Sample
from jepsen.report import html
from jepsen.report.series import intervals, reigns
from jepsen.verdict import Finding, Validity, Verdict
from tests.jepsen.served import serve_registers

VOID = {"meta", "br"}
OPTIONAL = {"p", "li", "td", "th", "tr", "html", "meta", "br", "ul", "title", "span"}


class Tags(HTMLParser):
    """Checks that what must be closed is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag not in OPTIONAL:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in OPTIONAL:
            assert self.open.pop() == tag


def made(validity: Validity, findings: list[Finding] | None = None) -> str:
    ops = serve_registers(Random(1), 300)
    for op in ops:
        op.start *= 10_000_000
        op.end *= 10_000_000
    records: list[Record] = [*ops]
    records.append(Fault("kill", ["m1"], 1_000_000_000, 3_000_000_000, "<b>", 1))
    for second in range(10):
        leader = "a" if second < 5 else "b"
        members = {n: {"leader": leader, "id": n, "term": 2 + (second >= 5)} for n in "ab"}
        records.append(Sample(second * 1_000_000_000, members))
    return html.render(
        records,
        [Verdict("revisions", validity, 300, findings or [], "a <note>")],
        title="A run",
        command="kvstore chaos --seed 7",
        facts={"seed": "7", "version": "1 & 2"},
        left_out={"wall-clock": "no libfaketime"},
    )


@pytest.mark.parametrize("validity", Validity)
def test_the_verdict_comes_first_and_the_rest_is_there(validity: Validity) -> None:
    page = made(validity)
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    body = page[page.index("</style>") :]
    assert body.index(f'class="verdict {validity}"') < body.index("<h2>")
    for text in ("kvstore chaos --seed 7", "wall-clock: no libfaketime", "1 &amp; 2", "leads term"):
        assert text in page


def test_each_workload_has_its_result_with_its_own_verdict() -> None:
    """A register is as valid as the worse of its two checkers says."""
    ops = [Op(0, w, "read", "k", None, 5, 9, Outcome.OK) for w in ("register", "set")]
    verdicts = [
        Verdict("linearizable", Validity.UNKNOWN),
        Verdict("revisions", Validity.VALID),
        Verdict("set", Validity.VALID),
    ]
    page = html.render(ops, verdicts, title="A run", command="-", facts={})
    table = page[page.index("<h2>Workloads") : page.index("<h2>Faults")]
    found = re.findall(r'<tr><td>(\w+)<td><span class="badge (\w+)"', table)
    assert found == [("register", "unknown"), ("set", "valid")]


def test_nothing_is_loaded_from_anywhere() -> None:
    tags = Tags()
    tags.feed(made(Validity.VALID))
    assert not [a for a in tags.attributes if a[0] in ("src", "href", "srcset")]
    assert not re.search(r"url\(|@import|<script", made(Validity.VALID))


def test_a_counter_example_is_drawn_with_its_operations() -> None:
    bad = Op(3, "register", "read", "k<1>", None, 5, 9, Outcome.OK, ["<x>", 2], 7)
    page = made(Validity.INVALID, [Finding("stale read", "it shows <old>", [bad])])
    assert "stale read" in page
    assert 'aria-label="counter-example"' in page
    assert "k&lt;1&gt;" in page
    assert "<old>" not in page
    assert "<x>" not in page


def test_intervals_count_each_operation_once() -> None:
    ops = serve_registers(Random(2), 200)
    cut = intervals(ops, max(op.end for op in ops) / 1e9, 7)
    assert sum(i.ok + i.fail + i.info for i in cut) == len(ops)
    assert sum(len(i.latencies) for i in cut) == sum(op.outcome is Outcome.OK for op in ops)


def test_a_reign_lasts_while_the_same_member_leads_the_same_term() -> None:
    def sample(second: int, leader: str, term: int) -> Sample:
        fields = {"leader": leader, "id": leader, "term": term}
        return Sample(second * 1_000_000_000, {leader: fields, "x": {"error": "gone"}})

    found = reigns([sample(0, "a", 2), sample(1, "a", 2), sample(2, "b", 3), sample(3, "b", 4)])
    assert [(r.member, r.term, r.start, r.end) for r in found] == [
        ("a", 2, 0.0, 1.0),
        ("b", 3, 2.0, 2.0),
        ("b", 4, 3.0, 3.0),
    ]


def test_errors_that_differ_by_a_port_count_together_and_are_whole() -> None:
    ops = serve_registers(Random(1), 30)
    end = "Failed to connect to remote host: connect: Connection refused (111)"
    for number, op in enumerate(ops[:10]):
        address = f"ipv4:127.0.0.1:{12000 + number}"
        op.error = f"UNAVAILABLE: failed to connect to all addresses; last error: {address}: {end}"
    verdicts = [Verdict("revisions", Validity.VALID, 30)]
    page = html.render(ops, verdicts, title="A run", command="x", facts={})
    assert f"10 × UNAVAILABLE: ipv4:127.0.0.1:*: {end}" in page
