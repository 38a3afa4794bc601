"""From the records of a run to its verdicts: of each workload, of all together, and of the run.

Only what a history says counts here, so a history file can be judged again (`jepsen.check`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from jepsen.checkers import durability, monotonic
from jepsen.history import Fault, Op, Outcome, Record
from jepsen.verdict import Validity, Verdict, worst
from jepsen.workloads import Workload

MOST_HARMLESS = 0.1
"""Share of the kinds of faults that came which may have had no effect."""


def judge(records: Sequence[Record], workloads: Sequence[Workload]) -> list[Verdict]:
    """Return all verdicts that a history allows."""
    ops = [record for record in records if isinstance(record, Op)]
    verdicts = [worth(records, workloads), monotonic.check(ops)]
    if any(workload.name in durability.WORKLOADS for workload in workloads):
        verdicts.append(durability.check(ops))
    for workload in workloads:
        verdicts += workload.judge(ops)
    return verdicts


def worth(records: Sequence[Record], workloads: Sequence[Workload]) -> Verdict:
    """Whether the run proved anything: enough done, and faults that bit."""
    ops = [record for record in records if isinstance(record, Op)]
    done = Counter(op.workload for op in ops if op.outcome is Outcome.OK)
    lazy = [w.name for w in workloads if done[w.name] < w.min_ops]
    faults = [record for record in records if isinstance(record, Fault)]
    hit, came = Counter[str](), Counter(fault.name for fault in faults)
    for fault in faults:
        hit[fault.name] += fault.effect
    harmless = sorted({fault.name for fault in faults if not hit[fault.name]})
    note = "; ".join(
        [f"too few operations succeeded: {', '.join(lazy)}"] * bool(lazy)
        + [f"without any effect: {', '.join(harmless)}"] * bool(harmless)
    )
    # One of many kinds that missed the only time it came does not devalue a whole run.
    in_vain = any(came[name] > 1 for name in harmless) or len(harmless) > MOST_HARMLESS * len(came)
    validity = Validity.UNKNOWN if lazy or in_vain else Validity.VALID
    return Verdict("worth", validity, sum(done.values()), note=note)


def summary(verdicts: Sequence[Verdict]) -> str:
    """Return verdicts as text, the worst of them last."""
    lines = [""]
    for verdict in verdicts:
        note = f"  ({verdict.told})" if verdict.told else ""
        checked = verdict.checked or "-"
        lines.append(f"{verdict.checker:14} {verdict.validity:8} {checked:>8} checked{note}")
        lines += [f"    {finding.kind}: {finding.text}" for finding in verdict.findings]
    lines.append(f"\n{worst(verdicts).upper()}")
    return "\n".join(lines) + "\n"
