"""What an operator asks for while clients write: compaction, defragmentation, another leader."""

from __future__ import annotations

import contextlib

import grpc

from jepsen.chaos.faults.base import Done, Fault
from kvstore.pb import rpc_pb2


class Call(Fault):
    """A maintenance call under load."""

    def call(self, number: int, method: str, request: object, response: object) -> object | None:
        channel = self.cluster.channel(number)
        unary = channel.unary_unary(
            f"/etcdserverpb.{method}",
            request_serializer=type(request).SerializeToString,  # type: ignore[attr-defined]
            response_deserializer=type(response).FromString,  # type: ignore[attr-defined]
        )
        with contextlib.suppress(grpc.RpcError):
            answer: object = unary(request, timeout=20.0)
            return answer
        return None


class MoveLeader(Call):
    """The leader is asked to hand over to another member."""

    name = "move-leader"

    def begin(self) -> Done:
        leader = self.leader()
        others = [i for i in self.up() if i != leader]
        if not others:
            return Done([])
        target = self.random.choice(others)
        with contextlib.suppress(grpc.RpcError):
            target_id = self.cluster.status(target).header.member_id
            request = rpc_pb2.MoveLeaderRequest(targetID=target_id)
            answer = self.call(
                leader, "Maintenance/MoveLeader", request, rpc_pb2.MoveLeaderResponse()
            )
            return Done(self.names([target]), effect=int(answer is not None))
        return Done(self.names([target]))


class Compact(Call):
    """History is compacted, up to near the newest revision."""

    name = "compact"

    def begin(self) -> Done:
        number = self.random.choice(self.up())
        with contextlib.suppress(grpc.RpcError):
            revision = self.cluster.status(number).header.revision - self.random.randrange(200)
            request = rpc_pb2.CompactionRequest(revision=max(revision, 1))
            answer = self.call(number, "KV/Compact", request, rpc_pb2.CompactionResponse())
            detail = f"at {request.revision}"
            return Done(self.names([number]), detail, int(answer is not None))
        return Done(self.names([number]))


class Defragment(Call):
    """A member is asked to pack its database."""

    name = "defragment"

    def begin(self) -> Done:
        number = self.random.choice(self.up())
        answer = self.call(
            number,
            "Maintenance/Defragment",
            rpc_pb2.DefragmentRequest(),
            rpc_pb2.DefragmentResponse(),
        )
        return Done(self.names([number]), effect=int(answer is not None))
