"""Calls of simulated clients: gRPC as the server's router takes it, over a simulated connection.

A call is what HTTP/2 would make of it: request events that arrive after a while, response events
that come back in order, a window that stops a server whose client does not read, and an end of the
connection when the member dies. Nothing of the router is left out, so deadlines, half-closes,
cancellations and statuses are the server's own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from jepsen.sim.loop import Loop
from kvstore.errors import Code

if TYPE_CHECKING:
    from jepsen.sim.node import Node

DELAY_S = 0.001
"""Mean time on the way between a client and a member."""
WINDOW = 4
"""Response events that may be on the way or unread before the server must wait."""
SPLIT = 0.1
"""How often the next part of a request takes a packet of its own, so that the server has to wait
for it: else headers and body always come together."""
LOST = "connection lost"


@dataclass(frozen=True, slots=True)
class Status:
    """How a call ended."""

    code: Code
    message: str


OK = Status(Code.OK, "")

Done = Callable[[Status, bytes], None]
"""Gets the status and, of a unary call that succeeded, the response."""


class Exchange:
    """One call, from both sides.

    ``on_message`` gets each response message, ``on_end`` the status, once. A client that reads
    slowly takes messages from `unread` by itself instead (``reads=False``).
    """

    def __init__(
        self,
        loop: Loop,
        node: Node,
        path: str,
        client: str,
        *,
        metadata: Mapping[str, str] | None = None,
        timeout_s: float = 0.0,
        on_message: Callable[[bytes], None],
        on_end: Callable[[Status], None],
    ) -> None:
        self.ended = False
        self._loop = loop
        self._node = node
        self._aio = node.aio
        self._label = f"{client}>{node.name} {path.rpartition('/')[2]}"
        self._back = f"{node.name}>{client}"
        self._on_message = on_message
        self._on_end = on_end
        self._headers = [(b"content-type", b"application/grpc")]
        self._headers += [(k.encode(), v.encode()) for k, v in (metadata or {}).items()]
        if timeout_s:
            self._headers.append((b"grpc-timeout", b"%dm" % round(timeout_s * 1000)))
        self._path = path
        self._arrival = self._answer = loop.now
        self._task: asyncio.Task[Any] | None = None
        self._request: list[Callable[[], None]] = []
        self._request_at = -1.0
        self._response: list[dict[str, Any]] = []
        self._response_at = -1.0
        self._requests: deque[dict[str, Any]] = deque()
        self._receiver: asyncio.Future[None] | None = None
        self._sender: asyncio.Future[None] | None = None
        self._in_flight = 0
        self._buffer = b""
        self._status = Status(Code.UNKNOWN, "no status")
        self._later(self._arrive)

    # The client.

    def send(self, message: bytes, *, last: bool = False) -> None:
        """Send a request message."""
        body = b"\0" + len(message).to_bytes(4, "big") + message
        event = {"type": "http.request", "body": body, "more_body": not last}
        self._later(lambda: self._take(event))

    def cancel(self) -> None:
        """Reset the stream; nothing more is heard of it."""
        if not self.ended:
            self.ended = True
            self._later(self._reset)

    def _later(self, work: Callable[[], None]) -> None:
        """Do something at the member, behind what was sent before. What is sent at one moment goes
        in one packet, mostly."""
        loop = self._loop
        if self._request_at == loop.now:
            if loop.random.random() >= SPLIT:
                self._request.append(work)
                return
            self._node.observer.count("request in parts")
        packet = self._request = [work]
        self._request_at = loop.now
        delay = loop.random.expovariate(1 / DELAY_S)
        self._arrival = max(self._arrival, loop.now + delay)
        loop.after(self._arrival - loop.now, self._label, lambda: self._unpack(packet))

    def _unpack(self, packet: list[Callable[[], None]]) -> None:
        if self._request is packet:  # which leads back here: a cycle
            self._request, self._request_at = [], -1.0
        if self._aio.dead or not self._node.up:
            self._lost()
            return
        self._node.calls[self] = None

        def work() -> None:
            for part in packet:
                part()

        self._aio.deliver(work)

    def _lost(self) -> None:
        """The member has died, or its port is closed."""
        if not self.ended:
            self.ended = True
            self._on_end(Status(Code.UNAVAILABLE, LOST))

    # The member.

    def _arrive(self) -> None:
        node = self._node
        if not node.serves:
            self._client(self._lost)
            return
        scope = {
            "type": "http",
            "http_version": "2",
            "method": "POST",
            "path": self._path,
            "headers": self._headers,
            "extensions": {"http.response.trailers": {}},
            "client": ("client", 0),
        }

        async def run() -> None:
            await node.server.router(scope, self._receive, self._respond)

        self._task = self._aio.create_task(run())
        self._task.add_done_callback(lambda _: node.calls.pop(self, None))

    def died(self) -> None:
        """The member's process has ended."""
        self._loop.after(DELAY_S, f"{self._back} reset", self._lost)

    def _take(self, event: dict[str, Any]) -> None:
        self._requests.append(event)
        if self._receiver is not None and not self._receiver.done():
            self._receiver.set_result(None)

    async def _receive(self) -> dict[str, Any]:
        while not self._requests:
            self._receiver = self._aio.create_future()
            await self._receiver
        return self._requests.popleft()

    def _reset(self) -> None:
        self._take({"type": "http.disconnect"})
        if self._task is not None:
            self._task.cancel()

    async def _respond(self, event: Any) -> None:
        while self._in_flight >= WINDOW:
            self._sender = self._aio.create_future()
            await self._sender
        self._in_flight += 1
        if self._response_at == self._loop.now:
            self._response.append(event)
            return
        packet = self._response = [event]
        self._response_at = self._loop.now
        self._client(lambda: self._arrived(packet))

    def _client(self, work: Callable[[], None]) -> None:
        """Do something at the client, behind what was sent before."""
        loop = self._loop
        delay = loop.random.expovariate(1 / DELAY_S)
        self._answer = max(self._answer, loop.now + delay)
        loop.after(self._answer - loop.now, self._back, work)

    def _arrived(self, packet: list[dict[str, Any]]) -> None:
        if self._response is packet:
            self._response, self._response_at = [], -1.0
        if self.reads:
            for event in packet:
                self._read(event)
        else:
            self._unread.extend(packet)

    reads = True
    """Whether the client takes what comes at once."""

    _unread: deque[dict[str, Any]]

    def read_slowly(self) -> None:
        """Let responses wait until `read_next`."""
        self.reads = False
        self._unread = deque()

    def read_next(self) -> bool:
        """Read one response event; whether there was one."""
        if not self._unread:
            return False
        self._read(self._unread.popleft())
        return True

    def _read(self, event: dict[str, Any]) -> None:
        self._in_flight -= 1
        if self._sender is not None and not self._sender.done():
            self._aio.deliver(partial(_wake, self._sender))
        if self.ended:
            return
        kind = event["type"]
        if kind == "http.response.body":
            self._buffer += event["body"]
            while len(self._buffer) >= 5:
                size = int.from_bytes(self._buffer[1:5], "big")
                if len(self._buffer) < 5 + size:
                    break
                message, self._buffer = self._buffer[5 : 5 + size], self._buffer[5 + size :]
                self._on_message(message)
            return
        headers = dict(event["headers"])
        if b"grpc-status" in headers:
            code = Code(int(headers[b"grpc-status"]))
            self._status = Status(code, unquote(headers.get(b"grpc-message", b"").decode()))
            self.ended = True
            self._on_end(self._status)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def unary(
    loop: Loop,
    node: Node,
    path: str,
    client: str,
    request: bytes,
    done: Done,
    *,
    metadata: Mapping[str, str] | None = None,
    timeout_s: float = 0.0,
) -> Exchange:
    """Begin a unary call."""
    answers: list[bytes] = []
    exchange = Exchange(
        loop,
        node,
        path,
        client,
        metadata=metadata,
        timeout_s=timeout_s,
        on_message=answers.append,
        on_end=lambda status: done(status, answers[0] if answers else b""),
    )
    exchange.send(request, last=True)
    return exchange
