"""What a soak run does, turn by turn: each is a command of this project with a seed of its own.

A turn is carried out as a process of its own, by the very command that is printed when it fails: so
the command repeats it, nothing is left over from one turn to the next, and a turn that crashes or
hangs is a finding like any other. The trade-off: a second for each start of Python.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from pathlib import Path
from random import Random
from typing import Final

from jepsen.commands import end

SIZES: Final = (3, 5)
FEWEST_FAULTS: Final = 3
MOST_FAULTS: Final = 6
"""A drawn mix has so many kinds: fewer kinds come more often and meet each other more often."""
SIM_SEEDS: Final = 100
CUTS: Final = 20
"""Power cuts of one turn."""
MOST_CUTS: Final = 1000
"""Power cuts of a soak run; after them their turns are left out."""
SLACK_S: Final = 900.0
"""A turn may take so much longer than it was told before it counts as hanging."""
_PYTHON: Final = (sys.executable, "-m", "jepsen")


class Ended(StrEnum):
    """How a turn ended. BROKEN: it crashed or hung."""

    VALID = "valid"
    INVALID = "invalid"
    UNKNOWN = "unknown"
    BROKEN = "broken"


_CODES: Final = {0: Ended.VALID, 1: Ended.INVALID, 3: Ended.UNKNOWN}


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn. ``command`` repeats it, without what only says where its files go."""

    kind: str
    seed: int
    command: tuple[str, ...]
    directory: Path
    seconds: float
    """How long it may take, about."""
    where: tuple[str, ...] = ()
    """More words of the command, not needed for repeating it."""
    amount: int = 1
    """Runs, seeds or power cuts."""

    @property
    def told(self) -> str:
        return shlex.join(("python", *self.command[1:]))


@dataclass(frozen=True, slots=True)
class Done:
    """A turn that was carried out, and the last line that it printed."""

    turn: Turn
    ended: Ended
    seconds: float
    said: str


def turns(
    seed: int, faults: Sequence[str], directory: Path, chaos_s: float, *, power: bool
) -> Iterator[Turn]:
    """Yield turns for ever: chaos of each size, simulated seeds, power cuts, and again.

    Args:
        seed: of everything; turns count on from it.
        faults: kinds of faults for chaos: all of them in one turn, some in the next.
        chaos_s: how long faults come and go in a chaos run.
        power: whether power can be cut here.
    """
    random = Random(seed)
    cuts = 0
    mixes = _mixes(random, faults)
    for number in count():
        own = seed + number
        for size in SIZES:
            yield _chaos(own, size, next(mixes), directory, chaos_s)
        first = own * SIM_SEEDS
        words = ("sim", f"--seeds={SIM_SEEDS}", f"--start={first}")
        yield Turn(
            "sim", first, (*_PYTHON, *words), directory / f"sim-{first}", 60.0, (), SIM_SEEDS
        )
        if power and cuts < MOST_CUTS:
            cuts += CUTS
            members = f"--size={random.choice(SIZES)}"
            cutting = ("power", f"--cuts={CUTS}", f"--seed={own}", members)
            folder = directory / f"power-{own}"
            yield Turn("power", own, (*_PYTHON, *cutting), folder, 120.0, (), CUTS)


def _mixes(random: Random, faults: Sequence[str]) -> Iterator[tuple[str, ...]]:
    while True:
        yield tuple(faults)
        some = random.randint(min(FEWEST_FAULTS, len(faults)), min(MOST_FAULTS, len(faults)))
        yield tuple(random.sample(list(faults), some))


def _chaos(seed: int, size: int, faults: Sequence[str], directory: Path, seconds: float) -> Turn:
    folder = directory / f"chaos-{seed}-{size}"
    words = ("chaos", f"--seed={seed}", f"--size={size}", f"--seconds={seconds:g}")
    mix = f"--faults={','.join(faults)}"
    return Turn("chaos", seed, (*_PYTHON, *words, mix), folder, seconds, (f"--out={folder}",))


def carry_out(turn: Turn) -> Done:
    """Run a turn; its output is in ``<directory>/output.txt``."""
    turn.directory.mkdir(parents=True, exist_ok=True)
    output = turn.directory / "output.txt"
    began = time.monotonic()
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*turn.command, *turn.where],
            stdout=file,
            stderr=subprocess.STDOUT,
            process_group=0,  # with all members that it starts
        )
        code = None
        try:
            code = process.wait(turn.seconds + SLACK_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            end(process)
    lines = output.read_text(errors="replace").split("\n")
    said = next((line for line in reversed(lines) if line.strip()), "")
    ended = Ended.BROKEN if code is None else _CODES.get(code, Ended.BROKEN)
    if ended is Ended.INVALID and any(text.startswith("Traceback") for text in lines):
        ended = Ended.BROKEN  # Python's own exit code after an exception is 1, too
    if ended is Ended.VALID:
        _forget(turn.directory)
    return Done(turn, ended, time.monotonic() - began, said)


def _forget(directory: Path) -> None:
    """A valid run's data are of no use any more, and a long soak run would fill the disk."""
    shutil.rmtree(directory / "members", ignore_errors=True)
    (directory / "history.jsonl").unlink(missing_ok=True)
