"""``python -m jepsen mutants``: look for all mutants, or for some.

Each is looked for in a process of its own, which may be broken as far as never to end.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Final

from jepsen.mutants.find import SIM_BUDGET_S, Outcome, half_of, hunt
from jepsen.mutants.guard import Refused, require_source_checkout
from jepsen.mutants.registry import TOPICS, Mutant, mutants
from jepsen.options import whole

LIMITS_S: Final = {"sim": 10 * SIM_BUDGET_S, "chaos": 480.0, "power": 300.0}
"""After which a hunt is ended from outside."""
HANGS: Final = "the simulation hangs"
RESULTS: Final = Path("docs/mutants.json")
DOCUMENT: Final = Path("docs/reliability.md")
BEGIN, END = "<!-- mutants: begin -->", "<!-- mutants: end -->"


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code: 0 all found, 1 some not, 2 not possible."""
    parser = argparse.ArgumentParser(
        prog="python -m jepsen mutants",
        description="Look for servers that are broken on purpose, each in a process of its own."
        f" What comes of it is kept in {RESULTS}, unless mutants are named. Exit code: 0 all"
        " found, 1 some not, 2 not possible.",
    )
    parser.add_argument("names", nargs="*", help="which (default: all)")
    parser.add_argument("--half", choices=tuple(LIMITS_S), help="only what this half has to find")
    parser.add_argument("--topic", choices=TOPICS, help="only those of one topic")
    parser.add_argument("--table", action="store_true", help="write the table, from past results")
    parser.add_argument("--jobs", type=whole(1), default=1, help="simulations at a time")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument(
        "--budget", type=float, default=SIM_BUDGET_S, help="processor seconds of a simulated one"
    )
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        require_source_checkout()
    except Refused as refused:
        sys.stderr.write(f"{refused}\n")
        return 2
    known = mutants()
    unknown = sorted(set(options.names) - known.keys())
    if unknown:
        parser.error(f"no such mutant: {', '.join(unknown)}")
    if options.worker:
        found = hunt(known[options.names[0]], first_seed=options.seed, budget_s=options.budget)
        print(json.dumps(asdict(found)))
        return 0
    if options.table:
        write_table(known)
        return 0
    chosen = [
        mutant
        for mutant in known.values()
        if (not options.names or mutant.name in options.names)
        and options.half in (None, half_of(mutant))
        and options.topic in (None, mutant.topic)
    ]
    if not chosen:
        parser.error("there is none in that half of that topic")
    arguments_of_all = (f"--seed={options.seed}", f"--budget={options.budget}")
    return _hunt_all(chosen, options.jobs, arguments_of_all, keep=not options.names)


def _hunt_all(chosen: Sequence[Mutant], jobs: int, how: Sequence[str], *, keep: bool) -> int:
    remembering = threading.Lock()

    def look(mutant: Mutant) -> Outcome:
        found = _in_a_process(mutant, how)
        by = found.by or "NOT FOUND"
        odd = "" if found.expected else "  UNEXPECTED"
        print(f"{found.seconds:6.1f} s {found.tries:3}  {found.mutant}: {by}{odd}  {found.text}",
              flush=True)  # fmt: skip
        if keep:
            with remembering:
                _remember([found])  # at once: hours of work must not hang on the end
        return found

    with ThreadPoolExecutor(jobs) as pool:
        outcomes = list(pool.map(look, [m for m in chosen if half_of(m) == "sim"]))
    outcomes += [look(m) for m in chosen if half_of(m) != "sim"]  # these need the machine alone
    caught = [outcome for outcome in outcomes if outcome.by and outcome.expected]
    print(f"{len(caught)} of {len(outcomes)} found")
    return 0 if len(caught) == len(outcomes) else 1


def _in_a_process(mutant: Mutant, how: Sequence[str]) -> Outcome:
    half = half_of(mutant)
    command = [sys.executable, "-m", "jepsen", "mutants", "--worker", *how, mutant.name]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=LIMITS_S[half], check=False
        )
    except subprocess.TimeoutExpired:
        by = HANGS if half == "sim" else ""
        return Outcome(mutant.name, half, by, 1, LIMITS_S[half], "", by in mutant.told_by)
    if done.returncode:
        text = (done.stderr.splitlines() or ["no message"])[-1]
        return Outcome(mutant.name, half, "", 0, 0.0, f"the hunt failed: {text}", False)
    return Outcome(**json.loads(done.stdout.splitlines()[-1]))


# The table.


def _remember(outcomes: Sequence[Outcome]) -> None:
    """Put the outcomes beside the ones of other mutants that were found before."""
    past = {str(found["mutant"]): found for found in _past()}
    past.update((outcome.mutant, asdict(outcome)) for outcome in outcomes)
    lines = ",\n".join(json.dumps(past[name], sort_keys=True) for name in sorted(past))
    RESULTS.write_text(f"[\n{lines}\n]\n")


def _past() -> list[dict[str, object]]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else []


def write_table(known: dict[str, Mutant]) -> None:
    """Put the table between its marks in `DOCUMENT`."""
    past = {str(found["mutant"]): Outcome(**found) for found in _past()}  # type: ignore[arg-type]
    text = DOCUMENT.read_text()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    DOCUMENT.write_text(f"{head}{BEGIN}\n{table(known, past)}{END}{tail}")


def table(known: dict[str, Mutant], past: dict[str, Outcome]) -> str:
    """Return the table and its summary as Markdown."""
    rows, seconds = [], []
    for mutant in known.values():
        found = past.get(mutant.name)
        if found is None:
            by, cost = "not looked for", ""
        elif found.by not in mutant.told_by:
            by, cost = "**not found**", f"{found.tries} {_UNITS[found.half]}, {found.seconds:.0f} s"
        else:
            by = f"{found.half}: {found.by}" if found.half == "sim" else found.by
            cost = f"{found.tries} {_UNITS[found.half]}, {found.seconds:.1f} s"
            seconds.append(found.seconds)
        rows.append(f"| `{mutant.name}` | {mutant.breaks} ({mutant.item}) | {by} | {cost} |")
    median = f", median {statistics.median(seconds):.1f} s" if seconds else ""
    lines = [
        f"{len(seconds)} of {len(rows)} mutants are found{median}.",
        "",
        "| Mutant | Broken promise | Found by | Tries, time |",
        "|---|---|---|---|",
        *rows,
    ]
    return "\n".join(lines) + "\n"


_UNITS: Final = {"sim": "seeds", "chaos": "runs", "power": "cuts"}
