"""What a checker says of a history."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from jepsen.history import Op


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


def worst(verdicts: Iterable[Verdict]) -> Validity:
    """Invalid if one is, else unknown if one is or there is none, else valid."""
    seen = {verdict.validity for verdict in verdicts}
    for validity in (Validity.INVALID, Validity.UNKNOWN, Validity.VALID):
        if validity in seen:
            return validity
    return Validity.UNKNOWN
