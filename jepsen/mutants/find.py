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
from typing import Final

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
     r"cannot start|hard_state\.|outside the log|follow on|contradicts the segments|beyond the"),
    ("liveness", r"no write through|not settled"),
)  # fmt: skip
"""(name, pattern of the simulation's messages); what fits none is an exception of a member's."""
MEMBER_FAILS: Final = "a member fails"


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


def _hunt(mutant: Mutant, first_seed: int, budget_s: float) -> Outcome:
    plan = mutant.hunt
    # A simulation's cost is its processor time: others' load on the machine says nothing.
    clock = time.process_time if isinstance(plan, Sim) else time.monotonic
    began = clock()
    if isinstance(plan, Sim):
        by, tries, text = _simulate(mutant, plan, first_seed, budget_s)
    elif isinstance(plan, Chaos):
        by, tries, text = _chaos(mutant, plan, first_seed)
    else:
        by, tries, text = _power(mutant, plan, first_seed)
    took = clock() - began
    expected = not by or by in mutant.told_by
    return Outcome(mutant.name, half_of(mutant), by, tries, took, text, expected)


def invariant(text: str) -> str:
    """Name the invariant of a simulation's message."""
    for name, pattern in INVARIANTS:
        if re.search(pattern, text):
            return name
    return MEMBER_FAILS


def _simulate(mutant: Mutant, plan: Sim, first_seed: int, budget_s: float) -> tuple[str, int, str]:
    from jepsen.mutants.simulation import Violation, simulate

    end = time.process_time() + budget_s
    with mutant.applied():
        tries = 0
        while tries < plan.seeds and (not tries or time.process_time() < end):
            try:
                simulate(first_seed + tries, plan)
            except Violation as violation:
                text = str(violation).splitlines()[0]
                return invariant(text), tries + 1, text
            tries += 1
    return "", tries, ""


def _chaos(mutant: Mutant, plan: Chaos, first_seed: int) -> tuple[str, int, str]:
    from jepsen.chaos import runner
    from jepsen.mutants.launch import program
    from jepsen.verdict import Validity

    other = ("", 0, "")
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
        for verdict in result.verdicts:
            if verdict.validity is not Validity.INVALID:
                continue
            for finding in verdict.findings:
                by = f"{verdict.checker}: {finding.kind}"
                if by in mutant.told_by:
                    return by, attempt + 1, finding.text.splitlines()[0]
                other = (by, attempt + 1, finding.text.splitlines()[0])
    return other if other[0] else ("", plan.runs, "")


def _power(mutant: Mutant, plan: Power, first_seed: int) -> tuple[str, int, str]:
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
    for finding in report.verdict.findings:
        return (
            f"{report.verdict.checker}: {finding.kind}",
            report.cuts + 1,
            finding.text.splitlines()[0],
        )
    return "", report.cuts, ""
