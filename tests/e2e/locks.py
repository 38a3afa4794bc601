"""The Lock and Election services over grpcio, and the raw keys behind them.

What lives here: one call for each RPC, and what several test files ask about a line of keys. What
may not: retries, sessions or renewals; a test must see each answer as it came.
"""

from __future__ import annotations

from typing import Any

import grpc

from kvstore.pb import election_pb2, lock_pb2, rpc_pb2
from tests.e2e.client import Client
from tests.e2e.cluster import wait_until

WAIT_SECONDS = 60.0
"""Longest wait for a turn that must come."""

_UNARY: dict[str, tuple[Any, Any]] = {
    "v3lockpb.Lock/Lock": (lock_pb2.LockRequest, lock_pb2.LockResponse),
    "v3lockpb.Lock/Unlock": (lock_pb2.UnlockRequest, lock_pb2.UnlockResponse),
    "v3electionpb.Election/Campaign": (
        election_pb2.CampaignRequest,
        election_pb2.CampaignResponse,
    ),
    "v3electionpb.Election/Proclaim": (
        election_pb2.ProclaimRequest,
        election_pb2.ProclaimResponse,
    ),
    "v3electionpb.Election/Leader": (election_pb2.LeaderRequest, election_pb2.LeaderResponse),
    "v3electionpb.Election/Resign": (election_pb2.ResignRequest, election_pb2.ResignResponse),
}


class Locks:
    """Both services on one channel. Methods return grpcio's future of the answer."""

    def __init__(self, client: Client) -> None:
        self._calls = {
            path: client.channel.unary_unary(
                f"/{path}",
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )
            for path, (request, response) in _UNARY.items()
        }
        self._observe = client.channel.unary_stream(
            "/v3electionpb.Election/Observe",
            request_serializer=election_pb2.LeaderRequest.SerializeToString,
            response_deserializer=election_pb2.LeaderResponse.FromString,
        )

    def _call(self, path: str, fields: dict[str, Any], timeout: float) -> Any:
        return self._calls[path].future(_UNARY[path][0](**fields), timeout=timeout)

    def lock(self, name: bytes, lease: int = 0, timeout: float = WAIT_SECONDS) -> Any:
        return self._call("v3lockpb.Lock/Lock", {"name": name, "lease": lease}, timeout)

    def unlock(self, key: bytes) -> Any:
        return self._call("v3lockpb.Lock/Unlock", {"key": key}, WAIT_SECONDS)

    def campaign(
        self, name: bytes, value: bytes, lease: int = 0, timeout: float = WAIT_SECONDS
    ) -> Any:
        fields = {"name": name, "value": value, "lease": lease}
        return self._call("v3electionpb.Election/Campaign", fields, timeout)

    def proclaim(self, value: bytes, leader: Any = None) -> Any:
        fields = {"leader": leader, "value": value}
        return self._call("v3electionpb.Election/Proclaim", fields, WAIT_SECONDS)

    def resign(self, leader: Any = None) -> Any:
        return self._call("v3electionpb.Election/Resign", {"leader": leader}, WAIT_SECONDS)

    def leader(self, name: bytes) -> Any:
        return self._call("v3electionpb.Election/Leader", {"name": name}, WAIT_SECONDS)

    def observe(self, name: bytes) -> Any:
        """An iterator of answers, with ``cancel()``."""
        return self._observe(election_pb2.LeaderRequest(name=name), timeout=2 * WAIT_SECONDS)


def status_of(call: Any) -> tuple[grpc.StatusCode, str]:
    """Wait for a call that must fail; its code and text."""
    error = call.exception(WAIT_SECONDS)
    assert error is not None, f"it was answered: {call.result()}"
    return error.code(), error.details()


def line(client: Client, name: bytes) -> list[Any]:
    """The key-values of a line, first come first."""
    target, order = rpc_pb2.RangeRequest.CREATE, rpc_pb2.RangeRequest.ASCEND
    return list(client.prefix(name + b"/", sort_target=target, sort_order=order).kvs)


def wait_for_line(client: Client, name: bytes, length: int) -> list[Any]:
    """Wait until the line has so many keys, and return them."""

    def arrived() -> list[Any] | None:
        found = line(client, name)
        return [found] if len(found) == length else None

    return list(wait_until(arrived, WAIT_SECONDS, f"{length} keys of {name!r}")[0])
