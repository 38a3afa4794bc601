"""What a run consists of, as far as it is not drawn: the seed, and what is set by hand.

Each part of a run draws from a stream of chance of its own, so that taking something out of a plan
(a client, a kind of fault, one fault) leaves what the other parts draw as it was. That is what
makes a failing run shrink well.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

CHAOS_S = 30.0
"""Virtual seconds of faults in an ordinary run."""
FILES_EVERY = 4
"""One seed in so many runs on real files."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One run. `command` says how to repeat it."""

    seed: int
    members: int = 0
    """1 to 7; 0: drawn."""
    clients: int = -1
    """0 to 8; -1: drawn."""
    transactors: int = -1
    """0 to 2 clients of many-key requests; -1: drawn."""
    watchers: int = -1
    """0 to 4; -1: 4."""
    chaos_s: float = CHAOS_S
    """Virtual seconds of faults."""
    changes: bool | None = None
    """Whether members come and go; None: drawn."""
    pre_vote: bool | None = None
    """Whether candidates ask first; safety must not need it. None: drawn."""
    without: frozenset[str] = frozenset()
    """Kinds of faults that are left out."""
    skip: frozenset[int] = frozenset()
    """Faults that are left out, by their number in the run, from 1 on."""

    files: bool | None = None
    """Whether logs and backends are real files (`jepsen.sim.files`); None: with every fourth seed.
    The run is the same either way."""

    @property
    def on_files(self) -> bool:
        return self.seed % FILES_EVERY == 0 if self.files is None else self.files

    def stream(self, part: str) -> Random:
        """The chance of one part of the run. A text seeds it: the same with every hash seed."""
        return Random(f"{self.seed}/{part}")

    def command(self) -> str:
        """The command that repeats this run."""
        words = [f"python -m jepsen sim --seeds 1 --start {self.seed}"]
        if self.members:
            words.append(f"--members {self.members}")
        if self.clients >= 0:
            words.append(f"--clients {self.clients}")
        if self.transactors >= 0:
            words.append(f"--transactors {self.transactors}")
        if self.watchers >= 0:
            words.append(f"--watchers {self.watchers}")
        if self.chaos_s != CHAOS_S:
            words.append(f"--chaos {self.chaos_s:g}")
        if self.changes is not None:
            words.append("--changes" if self.changes else "--no-changes")
        if self.pre_vote is not None:
            words.append("--pre-vote" if self.pre_vote else "--no-pre-vote")
        if self.without:
            words.append(f"--without {','.join(sorted(self.without))}")
        if self.skip:
            words.append(f"--skip {','.join(map(str, sorted(self.skip)))}")
        if self.files is not None:
            words.append("--files" if self.files else "--no-files")
        return " ".join(words)
