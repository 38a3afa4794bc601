"""Runs sequences on both sides and finds the first difference that is not known.

`Runner` owns the two clusters. Between sequences both are emptied and brought to one revision; when
that fails, or a side has died, they are started anew. The trade-off: a sequence that begins so
begins at a high revision of a compacted store, and not as on new clusters (`start`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from google.protobuf import text_format
from google.protobuf.message import Message

from kvstore.pb import rpc_pb2
from tests.differential import known
from tests.differential.comparison import align_remaining, scrubbed
from tests.differential.generator import LEASES
from tests.differential.known import Known, Pair
from tests.differential.sides import Failure, Side, Version, our_side, reference_side
from tests.differential.steps import MARKER, WATCH, Step, resolved
from tests.differential.watching import Watching, settle_history, settle_live

EVERYTHING = rpc_pb2.RangeRequest(key=b"\0", range_end=b"\0")
NO_REQUEST = rpc_pb2.WatchRequest()


class Difference(Exception):
    """Unequal answers that are not known."""

    def __init__(self, step: Step | None, what: str, reference: Any, ours: Any) -> None:
        super().__init__(what)
        self.step = step
        self.what = what
        self.reference = reference
        self.ours = ours

    def __str__(self) -> str:
        step = self.step if self.step is not None else "after the last step"
        return (
            f"{step}\n{self.what}\n--- etcd\n{_text(self.reference)}\n--- ours\n{_text(self.ours)}"
        )


def _text(answer: Any) -> str:
    if isinstance(answer, Message):
        name = type(answer).__name__
        return f"{name} {{{text_format.MessageToString(answer, as_one_line=True)}}}"
    if isinstance(answer, list):
        return "[" + ",\n ".join(map(_text, answer)) + "]"
    return str(answer)


@dataclass(slots=True)
class Totals:
    """What a run has done."""

    sequences: int = 0
    requests: int = 0
    """Steps sent to both sides."""
    events: int = 0
    """Watch events compared."""
    dumps: int = 0
    """Revisions whose whole content was compared with every member."""
    methods: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    """Error texts of etcd."""
    explained: Counter[Known] = field(default_factory=Counter)
    ours_alone: int = 0
    left_out: int = 0


class Runner:
    """Both sides, running. Leaving the context ends them."""

    def __init__(self) -> None:
        self.totals = Totals()
        self.version: Version = ()
        self.reference: Side
        self.ours: Side
        self._stack = ExitStack()
        self._head = 0
        self._compacted = 0
        self._compactions: set[int] = set()
        self._streams: dict[int, tuple[Watching, Watching]] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close_streams()
        self._stack.__exit__(kind, error, trace)

    def start(self) -> None:
        """End what runs and start both sides on empty stores."""
        self._close_streams()
        self._stack.close()
        self._stack = ExitStack()
        self.reference = self._stack.enter_context(reference_side())
        self.ours = self._stack.enter_context(our_side())
        self.version = self.reference.version()
        self._head, self._compacted = 1, -1
        self._compactions = set()

    # Sequences.

    def run(self, steps: Sequence[Step]) -> Difference | None:
        """Run one sequence from an empty store; return its first unknown difference."""
        self.totals.sequences += 1
        try:
            for step in steps:
                self._run_step(step)
            self._settle()
            self._close_streams()
            self._compare_content()
        except Difference as difference:
            return difference
        return None

    def reset(self) -> None:
        """Empty both stores and bring them to one revision; start anew if that fails."""
        try:
            self._close_streams()
            for side in (self.reference, self.ours):
                _empty(side)
            revisions = [_revision(side) for side in (self.reference, self.ours)]
            for side, revision in zip((self.reference, self.ours), revisions, strict=True):
                for _ in range(revision, max(revisions)):
                    side.call(0, "KV/Put", rpc_pb2.PutRequest(key=MARKER))
                _succeed(side, "KV/DeleteRange", rpc_pb2.DeleteRangeRequest(key=MARKER))
            self._head = _revision(self.reference)
            compact = rpc_pb2.CompactionRequest(revision=self._head, physical=True)
            for side in (self.reference, self.ours):
                assert _revision(side) == self._head
                _succeed(side, "KV/Compact", compact)
            self._compacted = self._head
            self._compactions.add(self._head)
        except AssertionError:
            self.start()

    def compare(self, method: str, request: Any, member: int) -> Any:
        """Send one request to both sides and return the answer. Raises Difference."""
        reference = self.reference.call(0, method, request)
        ours = self.ours.call(member, method, request)
        self._compare(None, request, reference, ours, method)
        return ours

    # Steps.

    def _run_step(self, step: Step) -> None:
        request = resolved(step.request, self._head, self._compacted)
        if known.ends_etcd(request) or known.takes_events_of_others(request, self.version):
            self.totals.left_out += 1
            return
        if known.refused_here_alone(request, self.version):
            self._run_ours_alone(step, request)
            return
        self.totals.methods[step.method] += 1
        self.totals.requests += 1
        if step.method == WATCH:
            self._run_watch(step, request)
            return
        member = step.number % self.ours.size
        self._prepare(step, member)
        reference, ours = self._ask_both(step, member, request)
        self._compare(step, request, reference, ours, step.method, step.suffix)
        if isinstance(reference, Failure):
            self.totals.failures[reference.text] += 1
        else:
            self._head = max(self._head, reference.header.revision)
            if step.method == "KV/Compact":
                self._compacted = request.revision
                self._compactions.add(request.revision)

    def _run_ours_alone(self, step: Step, request: Any) -> None:
        self.totals.ours_alone += 1
        answer = self.ours.call(step.number % self.ours.size, step.method, request)
        if not isinstance(answer, Failure) or answer.code.name != "INVALID_ARGUMENT":
            raise Difference(step, "not sent to etcd, to be refused", "", answer)

    def _prepare(self, step: Step, member: int) -> None:
        if step.method == "KV/Compact":
            # What a watcher was sent before a compaction has its prev_kv, after it has not.
            self._settle()
        if step.method == "Maintenance/HashKV":
            self._wait_for_removal([member])
        self._catch_up(member)

    def _catch_up(self, member: int) -> None:
        """Let a member apply all, so that answers from its own state may be compared."""
        _succeed(self.ours, "KV/Range", rpc_pb2.RangeRequest(key=MARKER), member)

    def _ask_both(self, step: Step, member: int, request: Any) -> tuple[Any, Any]:
        data = request.SerializeToString() + step.suffix
        if step.method == "Lease/LeaseKeepAlive":
            return self.reference.keep_alive(0, data), self.ours.keep_alive(member, data)
        reference = self.reference.ask(0, step.method, data)
        ours = self.ours.ask(member, step.method, data)
        return reference(), ours()

    def _compare(
        self,
        step: Step | None,
        request: Any,
        reference: Any,
        ours: Any,
        what: str,
        suffix: bytes = b"",
        dead_watches: frozenset[int] = frozenset(),
    ) -> None:
        reference, ours = scrubbed(request, reference), scrubbed(request, ours)
        align_remaining(reference, ours)
        if reference == ours:
            return
        pair = Pair(
            request,
            _copy(reference),
            _copy(ours),
            suffix=suffix,
            compacted=self._compacted,
            compactions=frozenset(self._compactions),
            dead_watches=dead_watches,
        )
        used = known.explained(pair, self.version)
        if used is None:
            raise Difference(step, what, reference, ours)
        self.totals.explained.update(used)

    # Watches.

    def _run_watch(self, step: Step, request: rpc_pb2.WatchRequest) -> None:
        if step.stream not in self._streams:
            member = (step.number + step.stream) % self.ours.size
            self._streams[step.stream] = Watching(self.reference, 0), Watching(self.ours, member)
        sides = self._streams[step.stream]
        self._catch_up(sides[1].member)
        if request.HasField("create_request"):
            replies = [side.create(request) for side in sides]
        else:
            self._settle()
            for side in sides:
                side.send(request)
                side.ping()
            replies = [side.canceled(request.cancel_request.watch_id) for side in sides]
        self._compare(step, request, *replies, "the reply", dead_watches=_dead(sides))
        if not request.HasField("create_request") or request.create_request.start_revision < 0:
            self._settle(step, request)

    def _settle(self, step: Step | None = None, request: Any = NO_REQUEST) -> None:
        """Bring all streams to rest and compare what has come on them."""
        if not self._streams:
            return
        both = [side for sides in self._streams.values() for side in sides]
        watches = settle_history(both, self._put_marker())
        settle_live(both, watches, self._put_marker())
        for number, sides in self._streams.items():
            (events, answers), (our_events, our_answers) = (side.take() for side in sides)
            where, dead = f"on stream {number}", _dead(sides)
            self._compare(
                step, request, answers, our_answers, f"progress {where}", dead_watches=dead
            )
            for watch in sorted(events.keys() | our_events.keys()):
                reference, ours = events.get(watch, []), our_events.get(watch, [])
                self.totals.events += len(reference)
                self._compare(step, request, reference, ours, f"events of watch {watch} {where}")

    def _put_marker(self) -> int:
        put = rpc_pb2.PutRequest(key=MARKER)
        for side in (self.reference, self.ours):
            self._head = _succeed(side, "KV/Put", put).header.revision
        return self._head

    def _close_streams(self) -> None:
        for sides in self._streams.values():
            for side in sides:
                side.close()
        self._streams = {}

    # Content.

    def _compare_content(self) -> None:
        """Compare all revisions since the compact revision, and hashes, on every member."""
        members = range(self.ours.size)
        for member in members:
            self._catch_up(member)
        asked: list[tuple[int, Callable[[], Any], list[Callable[[], Any]]]] = []
        for revision in range(max(self._compacted, 1), self._head + 1):
            request = rpc_pb2.RangeRequest(revision=revision, serializable=True)
            request.MergeFrom(EVERYTHING)
            data = request.SerializeToString()
            reference = self.reference.ask(0, "KV/Range", data)
            ours = [self.ours.ask(member, "KV/Range", data) for member in members]
            asked.append((revision, reference, ours))
        for revision, reference, ours in asked:
            expected = scrubbed(None, reference())
            self.totals.dumps += 1
            for member, answer in enumerate(ours):
                found = scrubbed(None, answer())
                if found != expected:
                    what = f"content at revision {revision} of member {member}"
                    raise Difference(None, what, expected, found)
        self._compare_leases()
        self._compare_hashes()

    def _compare_leases(self) -> None:
        """Which keys hang on which lease, as every member sees it."""
        for lease_id in LEASES:
            request = rpc_pb2.LeaseTimeToLiveRequest(ID=lease_id, keys=True)
            reference = self.reference.call(0, "Lease/LeaseTimeToLive", request)
            for member in range(self.ours.size):
                ours = self.ours.call(member, "Lease/LeaseTimeToLive", request)
                self._compare(None, request, reference, ours, f"lease {lease_id} at {member}")

    def _compare_hashes(self) -> None:
        """Hashes of all members, etcd's included (MNT-21, MNT-22)."""
        request = rpc_pb2.HashKVRequest(revision=self._head)
        if self._head in self._compactions:
            return  # etcd answers from memory then (MNT-23)
        self._wait_for_removal()
        reference = self.reference.call(0, "Maintenance/HashKV", request)
        for member in range(self.ours.size):
            ours = self.ours.call(member, "Maintenance/HashKV", request)
            self._compare(None, request, reference, ours, f"hash of member {member}")

    def _wait_for_removal(self, members: Iterable[int] | None = None) -> None:
        """Wait until etcd and `members` (all) have removed what is compacted (CMP-07).

        etcd's hash shows how far it has got when no key is left.
        """
        if self._compacted <= 0:
            return
        again = rpc_pb2.CompactionRequest(revision=self._compacted, physical=True)
        self.reference.call(0, "KV/Compact", again)
        for member in range(self.ours.size) if members is None else members:
            self.ours.call(member, "KV/Compact", again)


def _dead(sides: tuple[Watching, Watching]) -> frozenset[int]:
    return frozenset(sides[0].compacted | sides[1].compacted)


def _copy(answer: Any) -> Any:
    if isinstance(answer, Message):
        copy = type(answer)()
        copy.CopyFrom(answer)
        return copy
    if isinstance(answer, list):
        return [_copy(one) for one in answer]
    return answer


def _revision(side: Side) -> int:
    return int(_succeed(side, "KV/Range", EVERYTHING).header.revision)


def _succeed(side: Side, method: str, request: Any, member: int = 0) -> Any:
    answer = side.call(member, method, request)
    assert not isinstance(answer, Failure), f"{method} at {side.name}: {answer}"
    return answer


def _empty(side: Side) -> None:
    """Remove all leases and keys, in one order: the hashes of both histories are compared."""
    leases = _succeed(side, "Lease/LeaseLeases", rpc_pb2.LeaseLeasesRequest()).leases
    for lease in sorted(lease.ID for lease in leases):
        side.call(0, "Lease/LeaseRevoke", rpc_pb2.LeaseRevokeRequest(ID=lease))
    everything = rpc_pb2.DeleteRangeRequest(key=b"\0", range_end=b"\0")
    _succeed(side, "KV/DeleteRange", everything)
