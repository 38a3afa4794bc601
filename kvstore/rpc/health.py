"""The standard gRPC health service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from kvstore.errors import Code, EtcdError
from kvstore.pb import health_pb2
from kvstore.rpc.grpc import Call

Send = Callable[[list[bytes]], Awaitable[None]]

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class HealthService:
    """The standard health service; only the empty service name is known (HTP-07)."""

    def __init__(self) -> None:
        self._status = _SERVING
        self._changed = asyncio.Event()

    def set_serving(self, serving: bool) -> None:
        """Tell who asks, and who watches, whether this member serves."""
        status = _SERVING if serving else _NOT_SERVING
        if status != self._status:
            self._status = status
            self._changed.set()
            self._changed = asyncio.Event()

    def check(self, call: Call, request: health_pb2.HealthCheckRequest) -> bytes:
        if request.service:
            raise EtcdError(Code.NOT_FOUND, "unknown service")
        return health_pb2.HealthCheckResponse(status=self._status).SerializeToString()

    def list(self, call: Call, request: health_pb2.HealthListRequest) -> bytes:
        response = health_pb2.HealthListResponse()
        response.statuses[""].status = self._status
        return response.SerializeToString()

    async def watch(
        self, call: Call, requests: AsyncIterator[health_pb2.HealthCheckRequest], send: Send
    ) -> None:
        """Say the state, then each change of it, until the client or the server ends the call."""
        async for request in requests:
            while True:
                changed = self._changed
                await send([self.check(call, request)])
                await changed.wait()
