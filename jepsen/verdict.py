"""What a checker says of a history."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from jepsen.history import Op

MAX_FINDINGS: Final = 20
"""Findings of one checker that are kept: more would not be read. All are counted."""


class Validity(StrEnum):
    """UNKNOWN is no kind of valid: the budget was spent, or too little was seen to judge."""

    VALID = "valid"
    INVALID = "invalid"
    UNKNOWN = "unknown"


@dataclass(slots=True)
class Finding:
    """One broken promise: what it was, and the operations that show it, as few as possible."""

    kind: str
    """Short and fixed, such as ``stale read`` or ``lost write``."""
    text: str
    ops: list[Op] = field(default_factory=list)


@dataclass(slots=True)
class Verdict:
    """A checker's answer. ``checked`` counts the operations that were judged."""

    checker: str
    validity: Validity
    checked: int = 0
    findings: list[Finding] = field(default_factory=list)
    note: str = ""
    """Why it is unknown, or what was left out."""
    found: int = 0
    """How many findings there were in all, when some were not kept; else 0."""

    def add(self, findings: Iterable[Finding]) -> None:
        """Add what was found besides; then it is INVALID."""
        for finding in findings:
            self.validity = Validity.INVALID
            self.findings.append(finding)
            self.found += bool(self.found)

    @property
    def told(self) -> str:
        """The note, and how many findings there are."""
        counted = max(self.found, len(self.findings))
        words = f"{counted} finding{'s' * (counted > 1)}" if counted else ""
        if counted > len(self.findings):
            words += f", the first {len(self.findings)} shown"
        return "; ".join(filter(None, (self.note, words)))


class Findings:
    """What a checker finds on its way: the first `MAX_FINDINGS` are kept, all are counted."""

    __slots__ = ("_count", "_kept")

    def __init__(self) -> None:
        self._kept: list[Finding] = []
        self._count = 0

    def append(self, finding: Finding) -> None:
        self._count += 1
        if self._count <= MAX_FINDINGS:
            self._kept.append(finding)

    def __iadd__(self, findings: Iterable[Finding]) -> Findings:
        for finding in findings:
            self.append(finding)
        return self

    def __bool__(self) -> bool:
        return self._count > 0

    def verdict(self, checker: str, checked: int, note: str = "") -> Verdict:
        """INVALID with what was found, VALID if nothing was."""
        validity = Validity.INVALID if self else Validity.VALID
        left = self._count if self._count > len(self._kept) else 0
        return Verdict(checker, validity, checked, self._kept, note, left)


def worst(verdicts: Iterable[Verdict]) -> Validity:
    """Invalid if one is, else unknown if one is or there is none, else valid."""
    seen = {verdict.validity for verdict in verdicts}
    for validity in (Validity.INVALID, Validity.UNKNOWN, Validity.VALID):
        if validity in seen:
            return validity
    return Validity.UNKNOWN
