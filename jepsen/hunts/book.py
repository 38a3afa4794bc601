"""What was written and what watches showed, kept so that the watch checker can judge it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jepsen.checkers import watch
from jepsen.history import Op, Outcome
from jepsen.hunts.processes import WatchCall

MAX_WORDS = 300
"""Characters of what is told of a finding: values may be long."""


class Book:
    """The writes and watches of one try. Times are left out: the watch checker needs none."""

    def __init__(self, *, overtaken: bool = False) -> None:
        """Args:
        overtaken: a compaction may overtake the watches: each may be told so instead of events.
            Otherwise no watch may be canceled.
        """
        self._overtaken = overtaken
        self._canceled = ""
        self._ops: list[Op] = []
        self._shown: dict[tuple[int, int], list[Any]] = {}

    def wrote(self, kind: str, key: bytes, revision: int, value: bytes = b"") -> int:
        """Note an acknowledged ``put`` or ``delete``; return its revision."""
        text = value.decode("latin-1") if kind == "put" else None
        op = Op(0, "watch", kind, key.decode("latin-1"), text, 0, 0, Outcome.OK, True, revision)
        self._ops.append(op)
        return revision

    def wrote_many(self, keys: Iterable[bytes], revisions: Iterable[int], value: bytes) -> int:
        """Note many puts; return the last revision."""
        pairs = zip(keys, revisions, strict=True)
        return max(self.wrote("put", key, revision, value) for key, revision in pairs)

    def watches(self, call: WatchCall, watch_id: int, prefix: bytes, start_revision: int) -> None:
        """Note that a watch was created."""
        shown: list[Any] = []
        self._shown[id(call), watch_id] = shown
        client = len(self._ops) + 1
        key, outcome = prefix.decode("latin-1"), Outcome.OK
        op = Op(client, "watch", "watch", key, [start_revision], 0, 0, outcome, shown)
        self._ops.append(op)

    def showed(self, call: WatchCall, response: Any) -> None:
        """Note a response; progress of a whole call counts for all its watches."""
        if response.canceled and not (self._overtaken and response.compact_revision):
            self._canceled = self._canceled or (
                f"a watch was canceled: {response.cancel_reason or 'without a reason'},"
                f" compact revision {response.compact_revision}"
            )
        events = [_event(event) for event in response.events]
        if not events and (response.canceled or response.created):
            return
        for (owner, watch_id), shown in self._shown.items():
            if owner == id(call) and response.watch_id in (watch_id, -1):
                shown.append([response.header.revision, events])

    def judge(self) -> str:
        """What the checker has to say against it, "" if nothing."""
        verdict = watch.check(self._ops)
        if not verdict.findings:
            return self._canceled
        words = f"{verdict.findings[0].kind}: {verdict.findings[0].text}"
        count = max(verdict.found, len(verdict.findings))
        more = f" (and {count - 1} more)" if count > 1 else ""
        return f"{words[:MAX_WORDS]}{more}"


def _event(event: Any) -> list[Any]:
    key = event.kv.key.decode("latin-1")
    if event.type:
        return [event.kv.mod_revision, "DELETE", key, None, 0, 0, None]
    value = event.kv.value.decode("latin-1")
    kv = event.kv
    return [kv.mod_revision, "PUT", key, value, kv.version, kv.create_revision, None]
