"""What clients did and what was done to the cluster: the one form that everything here shares.

A history is a list of records in the order of their starts, one JSON object a line in a file:
operations (`Op`), faults (`Fault`) and now and then a `Sample` of the members' state. An operation
is one record with start and end, not two events: a checker wants intervals, and a file can be read
by a person. Times are integer nanoseconds from the run's start: monotonic time of one clock for
real processes, virtual time in the simulation.

What may be concluded from an outcome:

    ok    it happened, at some moment between start and end, and ``result`` is what was answered
    fail  it certainly did not happen, and never will (RFT-21)
    info  unknown: it may have happened at any moment after start, or may happen still, or never;
          ``end`` says only when the client stopped waiting
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeAlias


class Outcome(StrEnum):
    """How an operation ended. See the module's docstring."""

    OK = "ok"
    FAIL = "fail"
    INFO = "info"


@dataclass(slots=True)
class Op:
    """One operation of one client; a client does one after the other.

    ``f`` and the forms of ``value`` and ``result`` belong to the workload; they are JSON values.
    ``revision`` is the header revision that was answered, 0 when there was no answer: what the
    cluster claims to be the operation's place in the order of all (GEN-04).
    """

    client: int
    workload: str
    f: str
    key: str
    value: Any
    start: int
    end: int
    outcome: Outcome
    result: Any = None
    revision: int = 0
    member: str = ""
    """The member that was asked."""
    error: str = ""
    """``CODE: text`` of what the client was told, when that was an error."""


@dataclass(slots=True)
class Fault:
    """Something done to the cluster, from ``start`` to ``end`` (equal: at one moment).

    ``effect`` counts what the fault hit (dropped bytes, failed fsyncs, killed processes): a fault
    without effect tests nothing, and the run says so.
    """

    name: str
    targets: list[str]
    start: int
    end: int
    detail: str = ""
    effect: int = 0


@dataclass(slots=True)
class Sample:
    """What the members say of themselves at a moment: name -> fields of Status, or an error."""

    time: int
    members: dict[str, dict[str, Any]] = field(default_factory=dict)


Record: TypeAlias = Op | Fault | Sample
_KINDS: dict[str, type[Op] | type[Fault] | type[Sample]] = {
    "op": Op,
    "fault": Fault,
    "sample": Sample,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


class BadHistory(ValueError):
    """A line is no record; the text names the line."""


def encode(record: Record) -> str:
    """Return a record as one line of JSON, without its end."""
    fields = {"type": _NAMES[type(record)], **asdict(record)}
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False)


def decode(line: str) -> Record:
    """The inverse of `encode`. Raises BadHistory."""
    try:
        fields = json.loads(line)
        record = _KINDS[fields.pop("type")](**fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadHistory(f"no record: {line[:200]!r} ({error})") from None
    if isinstance(record, Op):
        try:
            record.outcome = Outcome(record.outcome)
        except ValueError as error:
            raise BadHistory(f"{error}: {line[:200]!r}") from None
    return record


def write(path: Path, records: Iterable[Record]) -> None:
    """Write a history file, sorted by start."""
    ordered = sorted(records, key=lambda r: r.time if isinstance(r, Sample) else r.start)
    with path.open("w") as file:
        file.writelines(encode(record) + "\n" for record in ordered)


def read(path: Path) -> Iterator[Record]:
    """Read a history file. Raises BadHistory, naming the line's number."""
    with path.open() as file:
        for number, line in enumerate(file, 1):
            try:
                yield decode(line)
            except BadHistory as error:
                raise BadHistory(f"{path}:{number}: {error}") from None
