"""Numbers for the plots: what happened in each interval of a run. Nothing is drawn here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from jepsen.history import Op, Outcome, Sample

NS_PER_S = 1_000_000_000


@dataclass(slots=True)
class Interval:
    """Operations that ended within one interval. Latencies are seconds, of those that succeeded."""

    ok: int = 0
    fail: int = 0
    info: int = 0
    latencies: list[float] = field(default_factory=list)

    def quantile(self, share: float) -> float | None:
        """Return a quantile (0 to 1) of the latencies, None without any."""
        if not self.latencies:
            return None
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def length_s(records: Iterable[Op | Sample]) -> float:
    """Return how long the run was, in seconds, at least one."""
    ends = [r.time if isinstance(r, Sample) else r.end for r in records]
    return max([*ends, NS_PER_S]) / NS_PER_S


def intervals(ops: Iterable[Op], length: float, count: int) -> list[Interval]:
    """Return `count` equal intervals of a run of `length` seconds. Streams are left out: their
    time is no latency."""
    made = [Interval() for _ in range(count)]
    for op in ops:
        if op.f == "watch":
            continue
        at = made[min(count - 1, int(op.end / NS_PER_S / length * count))]
        if op.outcome is Outcome.OK:
            at.ok += 1
            at.latencies.append((op.end - op.start) / NS_PER_S)
        elif op.outcome is Outcome.FAIL:
            at.fail += 1
        else:
            at.info += 1
    return made


@dataclass(slots=True)
class Reign:
    """A member led from `start` to `end` (seconds), in a term, as the samples show it."""

    member: str
    term: int
    start: float
    end: float


def reigns(samples: Sequence[Sample]) -> list[Reign]:
    """Return who led when. Of several that call themselves leader the newest term counts."""
    found: list[Reign] = []
    for sample in sorted(samples, key=lambda s: s.time):
        now = sample.time / NS_PER_S
        claims = [
            (int(fields["term"]), name)
            for name, fields in sample.members.items()
            if "error" not in fields and fields.get("leader") == fields.get("id")
        ]
        if not claims:
            continue
        term, name = max(claims)
        if found and (found[-1].member, found[-1].term) == (name, term):
            found[-1].end = now
        else:
            found.append(Reign(name, term, now, now))
    return found
