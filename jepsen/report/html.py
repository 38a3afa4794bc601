"""The report of a run as one HTML file: the verdict first, then what shows it.

Styles and drawings are inside the file and nothing is loaded, so it can be sent around and opened
years later.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from jepsen.history import Fault, Op, Outcome, Record, Sample
from jepsen.report import svg
from jepsen.report.series import intervals, length_s, reigns
from jepsen.verdict import Finding, Validity, Verdict, worst

BARS = 160
"""Intervals on the line of time."""
JUDGES = {"register": ("linearizable", "revisions")}
"""Workload -> its checkers, where they are not called as it is."""
_PREAMBLE = "failed to connect to all addresses; last error: "
_PORT = re.compile(r"(\d\.\d+|\]|localhost):\d+")
MAX_OPS = 40
"""Operations shown of one finding."""

_STYLE = """
:root { color-scheme: light dark; --bg: #fff; --fg: #1b1f24; --dim: #667; --line: #d5d9e0;
  --ok: #2f9e63; --fail: #d9a400; --info: #d9534f; --band: rgba(217, 83, 79, .13); --card: #f6f7f9 }
@media (prefers-color-scheme: dark) { :root { --bg: #14171b; --fg: #e4e7ec; --dim: #98a;
  --line: #333a44; --card: #1c2127; --band: rgba(217, 83, 79, .25) } }
body { background: var(--bg); color: var(--fg); font: 15px/1.5 system-ui, sans-serif;
  max-width: 1060px; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.5em } h2 { font-size: 1.1em; margin-top: 2em }
.verdict { padding: .8em 1em; border-radius: 8px; font-size: 1.2em; color: #fff }
.valid { background: #2f9e63 } .invalid { background: #c9302c } .unknown { background: #b58900 }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; padding: .3em .6em; border-bottom: 1px solid var(--line);
  vertical-align: top }
td.n { text-align: right; font-variant-numeric: tabular-nums }
.badge { padding: .1em .5em; border-radius: 4px; color: #fff; font-size: .85em }
svg { width: 100%; height: auto; display: block; margin: .2em 0 .8em }
svg text { fill: var(--fg); font: 12px system-ui, sans-serif } svg text.small { font-size: 11px;
  fill: var(--dim) } svg text.inside { fill: #fff; font-size: 10px }
.band { fill: var(--band) } .axis, .grid { stroke: var(--line) } .grid { stroke-dasharray: 2 4 }
.p50 { fill: var(--ok) } .p99 { fill: var(--info) } .fault { fill: #c9302c; opacity: .75 }
.op { fill: var(--card); stroke-width: 2 }
pre { background: var(--card); padding: .8em; border-radius: 6px; overflow-x: auto;
  font-size: 13px }
.finding { border-left: 4px solid #c9302c; padding-left: 1em; margin: 1em 0 }
.key span { display: inline-block; width: .8em; height: .8em; border-radius: 2px;
  margin: 0 .3em 0 1em }
"""


def render(
    records: Sequence[Record],
    verdicts: Sequence[Verdict],
    *,
    title: str,
    command: str,
    facts: Mapping[str, str],
    left_out: Mapping[str, str] | None = None,
) -> str:
    """Return the page.

    Args:
        command: repeats the run.
        facts: name -> value: seed, versions, machine.
        left_out: fault -> why it could not happen.
    """
    ops = [record for record in records if isinstance(record, Op)]
    faults = [record for record in records if isinstance(record, Fault)]
    samples = [record for record in records if isinstance(record, Sample)]
    length = length_s([*ops, *samples])
    validity = worst(verdicts)
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title>",
        f"<style>{_STYLE}</style><h1>{escape(title)}</h1>",
        f'<p class="verdict {validity}">{_sentence(validity, ops, faults)}</p>',
        "<h2>Checks</h2>",
        _verdict_table(verdicts),
        *_findings(verdicts),
        "<h2>Line of time</h2>",
        _plots(ops, faults, samples, length),
        "<h2>Workloads</h2>",
        _workload_table(ops, verdicts),
        "<h2>Faults</h2>",
        svg.faults_list(faults, length) if faults else "<p>None.</p>",
        _left_out(left_out or {}),
        "<h2>To repeat it</h2>",
        f"<pre>{escape(command)}</pre>",
        _facts(facts),
        "</html>",
    ]
    return "\n".join(parts)


def write(path: Path, page: str) -> None:
    """Write the page."""
    path.write_text(page, encoding="utf-8")


def _sentence(validity: Validity, ops: Sequence[Op], faults: Sequence[Fault]) -> str:
    counts = Counter(op.outcome for op in ops)
    done = (
        f"{counts[Outcome.OK]} operations succeeded, {counts[Outcome.FAIL]} failed for certain,"
        f" {counts[Outcome.INFO]} ended unknown, under {len(faults)} faults."
    )
    said = {
        Validity.VALID: "Valid: no promise was broken.",
        Validity.INVALID: "Invalid: a promise was broken.",
        Validity.UNKNOWN: "Unknown: too little was seen or judged to tell.",
    }
    return f"<b>{said[validity]}</b><br>{done}"


def _badge(validity: Validity) -> str:
    return f'<span class="badge {validity}">{validity}</span>'


def _verdict_table(verdicts: Sequence[Verdict]) -> str:
    rows = [
        f"<tr><td>{escape(v.checker)}<td>{_badge(v.validity)}<td class=n>{v.checked}"
        f"<td>{escape(v.told)}"
        for v in verdicts
    ]
    return f"<table><tr><th>Check<th>Verdict<th>Judged<th>Note{''.join(rows)}</table>"


def _findings(verdicts: Sequence[Verdict]) -> list[str]:
    parts = [_finding(v.checker, finding) for v in verdicts for finding in v.findings]
    return ["<h2>What was found</h2>", *parts] if parts else []


def _finding(checker: str, finding: Finding) -> str:
    shown = sorted(finding.ops, key=lambda op: op.start)[-MAX_OPS:]
    lines = "\n".join(svg.told(op) for op in shown)
    return (
        f'<div class="finding"><b>{escape(checker)}: {escape(finding.kind)}</b>'
        f"<p>{escape(finding.text)}</p>{svg.counter_example(shown)}"
        + (f"<pre>{escape(lines)}</pre>" if lines else "")
        + "</div>"
    )


def _plots(
    ops: Sequence[Op], faults: Sequence[Fault], samples: Sequence[Sample], length: float
) -> str:
    cut = intervals(ops, length, BARS)
    members = sorted({name for sample in samples for name in sample.members})
    key = "".join(
        f'<span style="background:{colour}"></span>{name}' for name, colour in svg.COLOURS.items()
    )
    parts = [
        "<p>Faults are the bands behind each plot.</p>",
        f'<div class="key">Operations a second, by outcome: {key}</div>',
        svg.throughput(cut, faults, length),
        '<div class="key">Latency: <span style="background:var(--ok)"></span>median'
        ' <span style="background:var(--info)"></span>99th percentile</div>',
        svg.latency(cut, faults, length),
    ]
    if members:
        parts += ["<div>Leader and its term</div>"]
        parts.append(svg.leaders(reigns(samples), members, faults, length))
    return "".join(parts)


def _workload_table(ops: Sequence[Op], verdicts: Sequence[Verdict]) -> str:
    by_checker = {verdict.checker: verdict for verdict in verdicts}
    rows = []
    for workload in sorted({op.workload for op in ops}):
        own = [op for op in ops if op.workload == workload]
        counts = Counter(op.outcome for op in own)
        kinds = ", ".join(f"{n} {f}" for f, n in sorted(Counter(op.f for op in own).items()))
        errors = Counter(_same(op.error) for op in own if op.error).most_common(3)
        told = "<br>".join(f"{n} × {escape(text)}" for text, n in errors)
        names = JUDGES.get(workload, (workload,))
        judged = [by_checker[name] for name in names if name in by_checker]
        rows.append(
            f"<tr><td>{escape(workload)}<td>{_badge(worst(judged)) if judged else ''}"
            f"<td class=n>{counts[Outcome.OK]}"
            f"<td class=n>{counts[Outcome.FAIL]}<td class=n>{counts[Outcome.INFO]}"
            f"<td>{escape(kinds)}<td>{told}"
        )
    head = "<tr><th>Workload<th>Verdict<th>ok<th>fail<th>info<th>Operations<th>Most frequent errors"
    return f"<table>{head}{''.join(rows)}</table>"


def _same(error: str) -> str:
    """An error without what tells equal ones apart: gRPC's preamble, and port numbers."""
    return _PORT.sub(r"\1:*", error.replace(_PREAMBLE, ""))


def _left_out(left_out: Mapping[str, str]) -> str:
    items = "".join(f"<li>{escape(name)}: {escape(why)}" for name, why in left_out.items())
    return f"<p>Left out here:<ul>{items}</ul>" if items else ""


def _facts(facts: Mapping[str, str]) -> str:
    rows = "".join(f"<tr><td>{escape(name)}<td>{escape(value)}" for name, value in facts.items())
    return f"<table>{rows}</table>"
