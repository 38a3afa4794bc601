"""The Cluster service: who is a member."""

from __future__ import annotations

from kvstore.pb import rpc_pb2
from kvstore.rpc.core import Core
from kvstore.rpc.grpc import Call


class ClusterService:
    """MemberList."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def member_list(self, call: Call, request: rpc_pb2.MemberListRequest) -> bytes:
        core = self._core
        if request.linearizable:
            await core.fresh()
        response = rpc_pb2.MemberListResponse(members=core.cluster.to_pb())
        return core.header(0) + response.SerializeToString()
