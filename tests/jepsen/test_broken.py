"""Checks of long histories that are broken end in time, and count what they do not show.

What 50,000 operations take: ``python -m tests.bench.checkers``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from jepsen.chaos.judging import summary
from jepsen.checkers import append, kube, leases, linearizable, revisions, sets, watch
from jepsen.history import Op
from jepsen.verdict import MAX_FINDINGS, Finding, Findings, Validity, Verdict
from tests.jepsen.broken import BROKEN

OPERATIONS = 4000

CHECKS: dict[str, tuple[Callable[[Iterable[Op]], Verdict], ...]] = {
    "registers": (linearizable.check, revisions.check),
    "appends": (append.check,),
    "sets": (sets.check_set,),
    "banks": (sets.check_bank,),
    "leases": (leases.check_leases,),
    "locks": (leases.check_locks,),
    "watches": (watch.check,),
    "kube": (kube.check,),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_long_broken_history_is_invalid(name: str) -> None:
    ops = BROKEN[name](OPERATIONS)
    for check in CHECKS[name.partition(" ")[0]]:
        verdict = check(ops)
        assert verdict.validity is Validity.INVALID
        assert 0 < len(verdict.findings) <= MAX_FINDINGS


def test_a_cycle_through_the_whole_history_is_shown_by_its_few_operations() -> None:
    (finding,) = append.check(BROKEN["appends read far back"](OPERATIONS)).findings
    assert finding.kind == "G-single-realtime"
    assert len(finding.ops) <= 3


def test_findings_that_are_not_kept_are_counted() -> None:
    found = Findings()
    found += (Finding("stale read", f"{n}") for n in range(MAX_FINDINGS + 5))
    verdict = found.verdict("revisions", 100)
    assert len(verdict.findings) == MAX_FINDINGS
    assert f"{MAX_FINDINGS + 5} findings, the first {MAX_FINDINGS} shown" in summary([verdict])
    assert "finding" not in summary([Findings().verdict("revisions", 100)])
