"""Clusters of real processes for hunts and scenarios, and watches that are read at a caller's pace.

What lives here: the parts that several of them share. What may not: retries that their story does
not speak of; each answer must be seen as it came.
"""

from __future__ import annotations

import queue
import re
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from jepsen.client import Client
from kvstore.pb import rpc_pb2
from kvstore.testing import Cluster
from kvstore.testing.processes import wait_until

PATIENCE_S = 60.0
"""Longest wait for something that must come."""
MISSED = 200
"""Writes between two looks at whether the log is compacted."""
_COMPACTED_LOG = re.compile(rb'"(?:kept_from|compact-index)":\s*(\d+)')
FLAGS = (
    "--snapshot-count=100",
    "--snapshot-catchup-entries=10",
    "--watch-progress-notify-interval=300ms",
)


class NotPossible(Exception):
    """The situation cannot be made here; the text says why."""


class Processes(Cluster):
    """A cluster whose members can be asked everything; all flags as in `FLAGS` unless given."""

    def __init__(self, size: int, directory: Path, **options: Any) -> None:
        super().__init__(size, directory, **{"flags": FLAGS, **options})
        self._clients: dict[int, Client] = {}
        self.own_flags: dict[int, Sequence[str]] = {}
        """Flags of one member, behind those of all."""

    def command(self, number: int) -> list[str]:
        return [*super().command(number), *self.own_flags.get(number, ())]

    def client(self, number: int) -> Client:
        """A kept client of one member alone."""
        if number not in self._clients:
            self._clients[number] = Client(self.members[number].endpoint)
        return self._clients[number]

    def close(self) -> None:
        for client in self._clients.values():
            client.close()
        self._clients.clear()
        super().close()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Nothing has failed, and nothing is printed, when a hunt is over or cannot be had."""
        quiet = isinstance(error, GeneratorExit | NotPossible)
        super().__exit__(kind, None if quiet else error, trace)

    @contextmanager
    def cut_off_until_it_needs_a_snapshot(self, number: int, key: bytes) -> Iterator[int]:
        """Cut a member off, write a key until nobody has the log that the member lacks, and give
        the last revision; the link heals with the context, without what was sent meanwhile."""
        assert self.links is not None
        others = [i for i in range(len(self.members)) if i != number]
        with self.partitioned([number]):
            needs = self.status(number, PATIENCE_S).raftIndex + 1
            deadline = time.monotonic() + PATIENCE_S
            until_answered(lambda: self.client(others[0]).put(key))  # somebody leads
            while min(map(self._log_begins, others)) <= needs:
                assert time.monotonic() < deadline, "the log is not compacted"
                last = max(self.client(others[0]).put_many([key] * MISSED))
            yield last
            self.links.reset(number)

    def _log_begins(self, number: int) -> int:
        """The first index that a member has kept at the last compaction of its log; of etcd, which
        prints the last one it has dropped, that one."""
        found = _COMPACTED_LOG.findall(self.members[number].log_path.read_bytes())
        return int(found[-1]) if found else 0

    def restart(self, number: int) -> None:
        """SIGKILL a member, and start it again."""
        self.kill(number)
        self.start(number)

    def metric(self, number: int, name: str) -> float:
        """The sum of a metric's samples on one member."""
        url = f"http://{self.members[number].endpoint}/metrics"
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
            lines = answer.read().decode().splitlines()
        found = [line for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line.rpartition(" ")[2]) for line in found)

    def wait_revision(self, number: int, revision: int) -> None:
        """Wait until a member has applied a revision."""

        def arrived() -> bool:
            answer = until_answered(lambda: self.client(number).get(b"-", serializable=True))
            return bool(answer.header.revision >= revision)

        wait_until(arrived, PATIENCE_S, f"member {number} is at revision {revision}")

    def same_hash(self) -> bool:
        """Whether all members have one hash at the first one's revision."""
        revision = int(self.client(0).get(b"-").header.revision)
        for number in range(len(self.members)):
            self.wait_revision(number, revision)
        hashes = {self.client(i).hash_kv(revision).hash for i in range(len(self.members))}
        return len(hashes) == 1


def until_answered(call: Callable[[], Any]) -> Any:
    """Ask again until there is an answer; for what may be repeated."""

    def attempt() -> list[Any] | None:
        try:
            return [call()]
        except grpc.RpcError:
            return None

    return wait_until(attempt, PATIENCE_S, "an answer")[0]


def refusal(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    """Code and text with which a call is refused, once it is neither lost nor without a leader."""

    def attempt() -> tuple[grpc.StatusCode, str] | None:
        try:
            answer = call()
        except grpc.RpcError as error:
            lost = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            return None if lost else (error.code(), error.details())
        raise AssertionError(f"it was answered: {answer}")

    return wait_until(attempt, PATIENCE_S, "a refusal")


class WatchCall:
    """One Watch call; responses are read only when the test asks for them."""

    def __init__(self, client: Client) -> None:
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.call = client.channel.stream_stream(
            "/etcdserverpb.Watch/Watch",
            request_serializer=rpc_pb2.WatchRequest.SerializeToString,
            response_deserializer=rpc_pb2.WatchResponse.FromString,
        )(iter(self._requests.get, None), timeout=2 * PATIENCE_S)

    def create(self, prefix: bytes, start_revision: int = 0, **fields: Any) -> None:
        """Ask for a watch of a prefix, and wait for no answer."""
        create = rpc_pb2.WatchCreateRequest(
            key=prefix, range_end=prefix + b"\xff", start_revision=start_revision, **fields
        )
        self._requests.put(rpc_pb2.WatchRequest(create_request=create))

    def ask(self, prefix: bytes, start_revision: int = 0, **fields: Any) -> Any:
        """Create a watch of a prefix; return the answer, which must be the next response."""
        self.create(prefix, start_revision, **fields)
        answer = self.next()
        assert answer.created, answer
        return answer

    def ask_progress(self) -> None:
        progress = rpc_pb2.WatchProgressRequest()
        self._requests.put(rpc_pb2.WatchRequest(progress_request=progress))

    def next(self) -> Any:
        """The next response. Raises grpc.RpcError when the stream breaks."""
        return next(self.call)

    def close(self) -> None:
        """End the call."""
        self._requests.put(None)
        self.call.cancel()

    def events_until(self, revision: int) -> list[tuple[str, int]]:
        """(type, revision) of all events up to one of this revision or a later one."""
        found: list[tuple[str, int]] = []
        while not found or found[-1][1] < revision:
            response = self.next()
            assert not response.canceled, response
            found += events_of(response)
        return found


def events_of(response: Any) -> list[tuple[str, int]]:
    """(type, revision) of the events of a response."""
    return [("DELETE" if e.type else "PUT", e.kv.mod_revision) for e in response.events]


@contextmanager
def watch_call(client: Client) -> Iterator[WatchCall]:
    """A Watch call that ends with the context."""
    made = WatchCall(client)
    try:
        yield made
    finally:
        made.close()
