"""What the member core needs from the outside: the protocols behind which all effects lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from kvstore.storage.wal import Batch
from raft import Message, SnapshotMeta


class Network(Protocol):
    """Sends raft messages; may lose, delay, duplicate and reorder them."""

    def send(self, messages: Sequence[Message]) -> None: ...


class LogWriter(Protocol):
    """Makes batches durable in the order of their tokens and reports each through the member."""

    def submit(self, token: int, batch: Batch) -> None: ...

    def release(self, index: int) -> None:
        """Entries up to ``index`` are no longer needed."""


class Snapshots(Protocol):
    """Makes, sends and installs snapshots of the backend."""

    def send(self, message: Message) -> None:
        """Stream a copy of the backend to ``message.to`` and report to the member."""

    def install(self, meta: SnapshotMeta) -> None:
        """Put the received copy in the place of the backend; returns when that is durable."""


Schedule = Callable[[Callable[[], None]], None]
"""Runs a function soon, after the event that is being handled."""
