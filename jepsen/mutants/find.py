"""Looks for one mutant with the simulation, with chaos, or with power cuts, within its budget.

A mutant counts as found only if what is said of it fits (`Mutant.told_by`): a run that fails for
another reason proves nothing about the checker that should have seen it.
"""

from __future__ import annotations

import logging
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from jepsen.mutants.registry import Chaos, Mutant, Power, Sim

SIM_BUDGET_S: Final = 60.0
"""Processor seconds."""
INVARIANTS: Final[tuple[tuple[str, str], ...]] = (
    ("election safety", r"election safety"),
    ("log matching", r"log matching"),
    ("leader completeness", r"leader completeness"),
    ("state machine safety", r"state machine safety|committed \d+ after"),
    ("durable on a quorum", r"but is durable on"),
    ("dense revisions", r"went from revision|fell back to revision|ahead of what is committed"),
    ("equal revision, equal events", r"has other events at revision"),
    ("equal index, equal state", r"at index \d+ has"),
    ("member list", r"has members .* and the configuration"),
    ("a refused write never shows", r"although the client was told|but it was written"),
    ("a value is written once", r"was written twice"),
    ("revisions of a key", r"wrong revisions in"),
    ("a lease lasts its time", r"went with lease|was granted and is not there"),
    ("no key of an unknown lease", r"has keys with an unknown lease"),
    ("keys go with their lease", r"outlived the revocation"),
    ("stale read or write", r"was known before it began"),
    ("the operator's answers", r"the operator was told|the addition of|was answered twice"),
    ("a compare tells the truth", r"compare of"),
    ("physical compaction", r"has not removed revisions below|nobody told"),
    ("watch delivery", r"\b[wt]\d+ (on|at|got) "),
    ("acknowledged writes are there",
     r"acknowledged at|does not exist|ends with|ends at revision|was acknowledged"),
    ("answers agree with the history", r"was answered"),
    ("a member starts with what it had",
     r"cannot start|hard_state\.|outside the log|follow on|contradicts the segments|beyond the"
     r"|the log reads back|WalCorrupt|WalNotInitialised"),
    ("what a compaction leaves", r"still stores .* and lacks"),
    ("liveness", r"no write through|not settled"),
)  # fmt: skip
"""(name, pattern of the simulation's messages); what fits none is an exception of a member's."""
MEMBER_FAILS: Final = "a member fails"
NEVER_CALLED: Final = "no patched function was ever called"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a hunt came to.

    Attributes:
        by: the invariant, or ``checker: kind``; "" if nothing was found.
        tries: seeds, runs or cuts that it took.
        text: the first line of what was said.
    """

    mutant: str
    half: str
    by: str
    tries: int
    seconds: float
    text: str = ""
    expected: bool = True
    calls: int | None = None
    """Calls of patched functions in the simulation; from real members, how many were called."""


def half_of(mutant: Mutant) -> str:
    """The half that has to find it."""
    return type(mutant.hunt).__name__.lower()


def hunt(mutant: Mutant, *, first_seed: int = 0, budget_s: float = SIM_BUDGET_S) -> Outcome:
    """Look for it as its plan says. Patches this process for the simulation's sake."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        return _hunt(mutant, first_seed, budget_s)
    finally:
        logging.disable(disabled)


class Found(NamedTuple):
    """What one half came to; `by` is "" if it saw nothing."""

    by: str
    tries: int
    text: str
    calls: int | None
    """None: not known."""


def _hunt(mutant: Mutant, first_seed: int, budget_s: float) -> Outcome:
    plan = mutant.hunt
    # A simulation's cost is its processor time: others' load on the machine says nothing.
    clock = time.process_time if isinstance(plan, Sim) else time.monotonic
    began = clock()
    if isinstance(plan, Sim):
        found = _simulate(mutant, plan, first_seed, budget_s)
    elif isinstance(plan, Chaos):
        found = _chaos(mutant, plan, first_seed)
    else:
        found = _power(mutant, plan, first_seed)
    took = clock() - began
    by, tries, text, calls = found
    expected = not by or by in mutant.told_by
    if calls == 0:
        by, text, expected = "", f"{NEVER_CALLED}, so nothing is broken", False
    return Outcome(mutant.name, half_of(mutant), by, tries, took, text, expected, calls)


def invariant(text: str) -> str:
    """Name the invariant of a simulation's message."""
    for name, pattern in INVARIANTS:
        if re.search(pattern, text):
            return name
    return MEMBER_FAILS


def _simulate(mutant: Mutant, plan: Sim, first_seed: int, budget_s: float) -> Found:
    from jepsen.mutants.simulation import Violation, simulate

    end = time.process_time() + budget_s
    other, tries = ("", 0, ""), 0
    with mutant.applied() as patches:
        while tries < plan.seeds and (not tries or time.process_time() < end):
            tries += 1
            try:
                simulate(first_seed + tries - 1, plan)
            except Violation as violation:
                text = str(violation).splitlines()[0]
                other = (invariant(text), tries, text)
                if other[0] in mutant.told_by:
                    break
        else:
            other = other if other[0] else ("", tries, "")
    return Found(*other, sum(patches.calls.values()) if patches.calls else None)


def _chaos(mutant: Mutant, plan: Chaos, first_seed: int) -> Found:
    from jepsen.chaos import runner
    from jepsen.mutants.launch import program
    from jepsen.verdict import Validity

    other, called = ("", plan.runs, ""), 0
    for attempt in range(plan.runs):
        with tempfile.TemporaryDirectory(prefix="mutant-") as directory:
            result = runner.run(
                runner.Plan(
                    seed=first_seed + attempt,
                    workloads=plan.workloads,
                    faults=plan.faults,
                    size=plan.size,
                    seconds=plan.seconds,
                    fault_s=plan.fault_s,
                    pause_s=plan.pause_s,
                    flags=plan.flags,
                    program=program(mutant.name),
                    directory=Path(directory),
                ),
                say=lambda line: None,
            )
            called += _first_calls(Path(directory))
        for verdict in result.verdicts:
            if verdict.validity is not Validity.INVALID:
                continue
            for finding in verdict.findings:
                by = f"{verdict.checker}: {finding.kind}"
                if by in mutant.told_by:
                    return Found(by, attempt + 1, finding.text.splitlines()[0], called)
                other = (by, attempt + 1, finding.text.splitlines()[0])
    return Found(*other, called)


def _power(mutant: Mutant, plan: Power, first_seed: int) -> Found:
    from jepsen.mutants.launch import program
    from jepsen.power.run import cut_again_and_again

    with tempfile.TemporaryDirectory(prefix="mutant-") as directory:
        report = cut_again_and_again(
            Path(directory),
            cuts=plan.cuts,
            seed=first_seed,
            size=plan.size,
            program=program(mutant.name),
            say=lambda line: None,
        )
        called = _first_calls(Path(directory))
    for finding in report.verdict.findings:
        by = f"{report.verdict.checker}: {finding.kind}"
        return Found(by, report.cuts + 1, finding.text.splitlines()[0], called)
    return Found("", report.cuts, "", called)


def _first_calls(directory: Path) -> int:
    """How often members said in their logs that a patched function was called for the first time.

    Nothing is said of a patch that is no function.
    """
    from jepsen.mutants.launch import FIRST_CALL

    return sum(
        log.read_text(errors="replace").count(FIRST_CALL) for log in directory.rglob("*.log")
    )
