"""The standard gRPC health service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from kvstore.errors import Code, EtcdError
from kvstore.pb import health_pb2
from kvstore.rpc.grpc import Call

Send = Callable[[list[bytes]], Awaitable[None]]


class HealthService:
    """The standard health service; only the empty service name is known (HTP-07)."""

    def check(self, call: Call, request: health_pb2.HealthCheckRequest) -> bytes:
        if request.service:
            raise EtcdError(Code.NOT_FOUND, "unknown service")
        return health_pb2.HealthCheckResponse(
            status=health_pb2.HealthCheckResponse.SERVING
        ).SerializeToString()

    def list(self, call: Call, request: health_pb2.HealthListRequest) -> bytes:
        response = health_pb2.HealthListResponse()
        response.statuses[""].status = health_pb2.HealthCheckResponse.SERVING
        return response.SerializeToString()

    async def watch(
        self, call: Call, requests: AsyncIterator[health_pb2.HealthCheckRequest], send: Send
    ) -> None:
        """Say the state once and keep the stream: only the server's stop changes it."""
        async for request in requests:
            await send([self.check(call, request)])
        await asyncio.get_running_loop().create_future()
