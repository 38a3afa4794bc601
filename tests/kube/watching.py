"""Watch calls as apiserver's client opens them: many watches on one stream.

What lives here: creating watches with apiserver's fields, sharing out the responses, and how its
client tells progress and creations from the rest. What may not: reopening a lost stream.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from kvstore.pb import kv_pb2, rpc_pb2
from tests.e2e.client import prefix_end

Response = Any


class WatchLost(Exception):
    """The stream ended, or the server cancelled the watch (`compact_revision` > 0: too old)."""

    def __init__(self, reason: str, compact_revision: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.compact_revision = compact_revision


@dataclass(slots=True)
class Watch:
    """One watch on a stream; `responses` are those with events or progress, in their order."""

    watch_id: int
    created_revision: int
    stream: WatchStream = field(repr=False)
    responses: list[Response] = field(default_factory=list)

    async def __aiter__(self) -> AsyncIterator[Response]:
        while True:
            yield await self.next()

    async def next(self) -> Response:
        """The next response.

        Raises:
            WatchLost: the server cancelled this watch or the stream is gone.
        """
        while not self.responses:
            await self.stream.receive()
        response = self.responses.pop(0)
        if response.canceled:
            raise WatchLost(response.cancel_reason, response.compact_revision)
        return response

    async def events(self, count: int) -> list[Any]:
        """Read until `count` more events came; progress is skipped."""
        found: list[Any] = []
        while len(found) < count:
            found.extend((await self.next()).events)
        return found


class WatchStream:
    """One Watch call that watches share, as those with the same metadata do (KUB-15).

    Not for use by several tasks at a time: whoever reads next receives for all.
    """

    def __init__(self, channel: Any, metadata: Sequence[tuple[str, str]]) -> None:
        method = channel.stream_stream(
            "/etcdserverpb.Watch/Watch",
            request_serializer=rpc_pb2.WatchRequest.SerializeToString,
            response_deserializer=rpc_pb2.WatchResponse.FromString,
        )
        self._call = method(metadata=tuple(metadata), wait_for_ready=True)
        self._watches: dict[int, Watch] = {}
        self._created: list[Response] = []

    async def __aenter__(self) -> WatchStream:
        return self

    async def __aexit__(self, *error: object) -> None:
        self._call.cancel()

    async def watch(
        self, key: bytes, start_revision: int, *, prefix: bool = True, progress: bool = False
    ) -> Watch:
        """KUB-14: create one watch and wait until it is created.

        Raises:
            WatchLost: the server refused it or the stream is gone.
        """
        create = rpc_pb2.WatchCreateRequest(
            key=key,
            range_end=prefix_end(key) if prefix else b"",
            start_revision=start_revision,
            prev_kv=True,
            progress_notify=progress,
        )
        await self._write(rpc_pb2.WatchRequest(create_request=create))
        while not self._created:
            await self.receive()
        answer = self._created.pop(0)
        if answer.canceled:
            raise WatchLost(answer.cancel_reason, answer.compact_revision)
        watch = Watch(answer.watch_id, answer.header.revision, self)
        self._watches[answer.watch_id] = watch
        return watch

    async def request_progress(self) -> None:
        """KUB-19: ask once; the answer goes to every watch of the stream."""
        progress = rpc_pb2.WatchProgressRequest()
        await self._write(rpc_pb2.WatchRequest(progress_request=progress))

    async def receive(self) -> None:
        """Take one response from the wire and hand it to its watch (id -1: to all, WCH-36)."""
        try:
            response = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise WatchLost(error.details() or error.code().name) from error
        if response is grpc.aio.EOF:
            raise WatchLost(f"the stream ended: {await self._call.details()}")
        if response.created:
            self._created.append(response)
        elif response.watch_id == -1:
            for watch in self._watches.values():
                watch.responses.append(response)
        else:
            self._watches[response.watch_id].responses.append(response)

    async def _write(self, request: Any) -> None:
        try:
            await self._call.write(request)
        except (grpc.aio.AioRpcError, grpc.aio.UsageError) as error:
            raise WatchLost(f"the stream is gone: {error}") from error


def is_progress(response: Response) -> bool:
    """How apiserver's client tells progress from all else (WCH-31)."""
    return bool(
        not response.events
        and not response.canceled
        and not response.created
        and response.compact_revision == 0
        and response.header.revision
    )


def is_create(event: Any) -> bool:
    """Whether the event made its key."""
    put = event.type == kv_pb2.Event.PUT
    return bool(put and event.kv.create_revision == event.kv.mod_revision)
