"""Hunts for ways around the permissions of keys: each a request that has to be refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import grpc

from jepsen.client import Client
from jepsen.hunts.base import Ground, Hunt, Tries
from jepsen.hunts.processes import NotPossible
from kvstore.pb import auth_pb2, rpc_pb2

SECRET_KEY: Final = b"secret"
SECRET: Final = b"nobody is told"
OWN_KEY: Final = b"own"
"""The user may read and write this key, and write `WRITE_ONLY_KEY`."""
WRITE_ONLY_KEY: Final = b"letterbox"
_TIMEOUT_S: Final = 10.0
_USER: Final = "user"
_PASSWORD: Final = "word"


class _User:
    """A user's calls."""

    def __init__(self, client: Client, name: str, password: str) -> None:
        self._channel = client.channel
        self._metadata: tuple[tuple[str, str], ...] = ()
        request = rpc_pb2.AuthenticateRequest(name=name, password=password)
        token = self.call("Auth/Authenticate", request, rpc_pb2.AuthenticateResponse).token
        self._metadata = (("token", token),)

    def call(self, path: str, request: Any, response: Any) -> Any:
        return self._channel.unary_unary(
            f"/etcdserverpb.{path}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )(request, timeout=_TIMEOUT_S, metadata=self._metadata)

    def txn(self, *operations: Any) -> Any:
        request = rpc_pb2.TxnRequest(success=operations)
        return self.call("KV/Txn", request, rpc_pb2.TxnResponse)

    def watch(self, request: Any) -> Any:
        """Responses of a Watch call."""
        return self._channel.stream_stream(
            "/etcdserverpb.Watch/Watch",
            request_serializer=rpc_pb2.WatchRequest.SerializeToString,
            response_deserializer=rpc_pb2.WatchResponse.FromString,
        )(_once(request), timeout=_TIMEOUT_S, metadata=self._metadata)


def _once(request: Any) -> Iterator[Any]:
    yield rpc_pb2.WatchRequest(create_request=request)


@contextmanager
def _guarded(ground: Ground) -> Iterator[tuple[Client, _User, _User]]:
    """A member with auth on: its client, root, and a user with few permissions."""
    with ground.cluster(1) as cluster:
        cluster.start()
        client = cluster.client(0)
        client.put(SECRET_KEY, SECRET)
        client.put(WRITE_ONLY_KEY, SECRET)
        for path, request, response in _set_up():
            _set(client, path, request, response)
        yield client, _User(client, "root", _PASSWORD), _User(client, _USER, _PASSWORD)


def _set(client: Client, path: str, request: Any, response: Any) -> None:
    try:
        client.channel.unary_unary(
            f"/etcdserverpb.Auth/{path}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )(request, timeout=_TIMEOUT_S)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            raise NotPossible("this server has no users and permissions") from None
        raise


def _set_up() -> Iterator[tuple[str, Any, Any]]:
    for name in ("root", _USER):
        user = rpc_pb2.AuthUserAddRequest(name=name, password=_PASSWORD)
        yield "UserAdd", user, rpc_pb2.AuthUserAddResponse
        yield "RoleAdd", rpc_pb2.AuthRoleAddRequest(name=name), rpc_pb2.AuthRoleAddResponse
        grant = rpc_pb2.AuthUserGrantRoleRequest(user=name, role=name)
        yield "UserGrantRole", grant, rpc_pb2.AuthUserGrantRoleResponse
    for key, kind in ((OWN_KEY, "READWRITE"), (WRITE_ONLY_KEY, "WRITE")):
        permission = auth_pb2.Permission(key=key, permType=kind)
        allowed = rpc_pb2.AuthRoleGrantPermissionRequest(name=_USER, perm=permission)
        yield "RoleGrantPermission", allowed, rpc_pb2.AuthRoleGrantPermissionResponse
    yield "AuthEnable", rpc_pb2.AuthEnableRequest(), rpc_pb2.AuthEnableResponse


def _told(call: Callable[[], Any]) -> Any:
    """An answer, None if it was refused for want of permission."""
    try:
        return call()
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.PERMISSION_DENIED:
            raise
        return None


def nested_transaction(ground: Ground) -> Tries:
    """A transaction in a transaction reads a key that the user may not read."""
    read = rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=SECRET_KEY))
    inner = rpc_pb2.RequestOp(request_txn=rpc_pb2.TxnRequest(success=[read]))
    with _guarded(ground) as (_, _, user):
        if _told(lambda: user.txn(read)) is not None:
            raise AssertionError("a plain transaction reads it too")
        answer = _told(lambda: user.txn(inner))
        yield (
            f"a transaction in a transaction told {SECRET_KEY.decode()!r} to a user who may not"
            " read it"
            if answer is not None
            else ""
        )


def previous_value_in_a_transaction(ground: Ground) -> Tries:
    """A put in a transaction asks for the previous value of a key that the user may only write."""
    put = rpc_pb2.PutRequest(key=WRITE_ONLY_KEY, value=b"letter", prev_kv=True)
    with _guarded(ground) as (_, _, user):
        answer = _told(lambda: user.txn(rpc_pb2.RequestOp(request_put=put)))
        yield (
            "a put in a transaction told the previous value of a key that its user may only write"
            if answer is not None
            else ""
        )


def keys_of_a_lease(ground: Ground) -> Tries:
    """A user asks for the keys of a lease, none of which the user may read."""
    with _guarded(ground) as (_, root, user):
        grant = rpc_pb2.LeaseGrantRequest(TTL=60)
        lease = root.call("Lease/LeaseGrant", grant, rpc_pb2.LeaseGrantResponse).ID
        put = rpc_pb2.PutRequest(key=SECRET_KEY, value=SECRET, lease=lease)
        root.call("KV/Put", put, rpc_pb2.PutResponse)
        ask = rpc_pb2.LeaseTimeToLiveRequest(ID=lease, keys=True)
        answer = _told(
            lambda: user.call("Lease/LeaseTimeToLive", ask, rpc_pb2.LeaseTimeToLiveResponse)
        )
        yield (
            f"the keys of a lease, {list(answer.keys)}, were told to a user who may not read them"
            if answer is not None
            else ""
        )


def open_ended_watch(ground: Ground) -> Tries:
    """A user watches from the one key that the user may read to the end of all keys."""
    watched = rpc_pb2.WatchCreateRequest(key=OWN_KEY, range_end=b"\0", start_revision=1)
    with _guarded(ground) as (_, _, user):
        call = user.watch(watched)
        created = next(call)
        if created.canceled:
            yield ""
            return
        shown = {event.kv.key for event in next(call).events}
        yield (
            f"a watch from {OWN_KEY.decode()!r} to the end showed {sorted(shown)} to a user who"
            " may read that one key"
        )


HUNTS: Final = (
    Hunt(
        "CVE-2026-33343",
        "permissions hold in nested transactions",
        nested_transaction,
        cheap=True,
    ),
    Hunt(
        "CVE-2023-32082",
        "nobody is told the keys of a lease without permission to read them",
        keys_of_a_lease,
        cheap=True,
    ),
    Hunt(
        "CVE-2026-44283",
        "a transaction tells no previous value without permission to read it",
        previous_value_in_a_transaction,
        cheap=True,
    ),
    Hunt(
        "GHSA-xg4h-6gfc-h4m8",
        "a watch to the end of all keys needs permission for all of them",
        open_ended_watch,
        cheap=True,
    ),
)
