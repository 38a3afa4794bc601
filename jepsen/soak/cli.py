"""``python -m jepsen soak --minutes N`` (``make soak MINUTES=N``): look for faults for a while.

Chaos on clusters of three and five with other faults each time, simulated seeds and, where that is
possible, power cuts, by turns. The first turn that finds something ends it.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from jepsen.chaos.faults import FAULTS
from jepsen.options import above_zero
from jepsen.power import disk
from jepsen.soak.turns import Done, Ended, Turn, carry_out, turns

CHAOS_S: Final = 90.0
FAILURES: Final = (Ended.INVALID, Ended.BROKEN)
UNITS: Final = {"chaos": "runs", "sim": "seeds", "power": "cuts"}


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        prog="python -m jepsen soak",
        description="Chaos, simulation and power cuts by turns, until time is up. Exit code:"
        " 0 nothing found, 1 a promise was broken (and the command that repeats it), 3 no turn was"
        " judged valid: nothing is known.",
    )
    made.add_argument("--minutes", type=above_zero, default=30, help="how long (default: 30)")
    made.add_argument("--seed", type=int, help="the first one (default: the time)")
    made.add_argument(
        "--chaos-seconds", type=above_zero, default=CHAOS_S, help="faults of each run"
    )
    made.add_argument("--out", type=Path, help="where reports and the summary go")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    options = parser().parse_args(arguments)
    seed = options.seed if options.seed is not None else int(time.time())
    directory = options.out or Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.stderr.write(f"--out: {error}\n")
        return 2
    why = disk.missing()
    if why:
        say(f"left out: power cuts ({why})")
    say(f"seed {seed}, in {directory}")
    plan = turns(seed, tuple(FAULTS), directory, options.chaos_seconds, power=not why)
    return soak(plan, time.monotonic() + 60 * options.minutes, directory, say)


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def soak(plan: Iterable[Turn], until: float, directory: Path, say: Callable[[str], None]) -> int:
    """Carry out turns until a monotonic time, or until one finds something; return an exit code.

    ``<directory>/summary.txt`` has all turns so far after each of them.
    """
    done: list[Done] = []
    with contextlib.suppress(KeyboardInterrupt):
        for turn in plan:
            if time.monotonic() >= until:
                break
            done.append(carry_out(turn))
            say(line(done[-1]))
            (directory / "summary.txt").write_text(summary(done))
            if done[-1].ended in FAILURES:
                break
    say("\n" + totals(done))
    failed = [one for one in done if one.ended in FAILURES]
    for one in failed:
        say(f"\n{(one.turn.directory / 'output.txt').read_text(errors='replace')[-4000:]}")
        say(f"repeat it: {one.turn.told}")
    if failed:
        return 1
    return 0 if any(one.ended is Ended.VALID for one in done) else 3


def line(one: Done) -> str:
    """A turn in one line."""
    return f"{one.ended:8} {one.seconds:6.0f} s  {one.turn.told}"


def summary(done: Sequence[Done]) -> str:
    """All turns, and what they come to."""
    lines = [f"{line(one)}\n{'':19}{one.said}" for one in done]
    return "\n".join([*lines, "", totals(done), ""])


def totals(done: Sequence[Done]) -> str:
    """What all turns come to."""
    lines = []
    for kind, unit in UNITS.items():
        own = [one for one in done if one.turn.kind == kind]
        ended = Counter(one.ended for one in own)
        told = ", ".join(f"{n} {how}" for how, n in sorted(ended.items())) or "none"
        lines.append(f"{kind}: {sum(one.turn.amount for one in own)} {unit}; turns: {told}")
    seeds = [str(one.turn.seed) for one in done if one.turn.kind == "chaos"]
    lines.append(f"seeds of chaos: {' '.join(dict.fromkeys(seeds)) or 'none'}")
    return "\n".join(lines)
