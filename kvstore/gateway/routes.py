"""The bindings of the JSON gateway: which path calls which RPC, and with what messages (HTP-09).

The table holds every binding of etcd, whether this server has the RPC or not: one that is not
registered is answered Unimplemented by the router, and works from the day it is. All bindings are
POST with the request message as body. ``KV.RangeStream`` has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from kvstore.pb import election_pb2, lock_pb2, rpc_pb2

PREFIX: Final = "/v3/"
ALIAS: Final = "/v3beta/"
"""Old clients (Patroni before it knows the version) use this prefix; it means `PREFIX`."""

_BINDINGS: Final[Mapping[str, str]] = {
    "kv/range": "etcdserverpb.KV/Range",
    "kv/put": "etcdserverpb.KV/Put",
    "kv/deleterange": "etcdserverpb.KV/DeleteRange",
    "kv/txn": "etcdserverpb.KV/Txn",
    "kv/compaction": "etcdserverpb.KV/Compact",
    "watch": "etcdserverpb.Watch/Watch",
    "lease/grant": "etcdserverpb.Lease/LeaseGrant",
    "lease/revoke": "etcdserverpb.Lease/LeaseRevoke",
    "kv/lease/revoke": "etcdserverpb.Lease/LeaseRevoke",
    "lease/keepalive": "etcdserverpb.Lease/LeaseKeepAlive",
    "lease/timetolive": "etcdserverpb.Lease/LeaseTimeToLive",
    "kv/lease/timetolive": "etcdserverpb.Lease/LeaseTimeToLive",
    "lease/leases": "etcdserverpb.Lease/LeaseLeases",
    "kv/lease/leases": "etcdserverpb.Lease/LeaseLeases",
    "cluster/member/add": "etcdserverpb.Cluster/MemberAdd",
    "cluster/member/remove": "etcdserverpb.Cluster/MemberRemove",
    "cluster/member/update": "etcdserverpb.Cluster/MemberUpdate",
    "cluster/member/list": "etcdserverpb.Cluster/MemberList",
    "cluster/member/promote": "etcdserverpb.Cluster/MemberPromote",
    "maintenance/alarm": "etcdserverpb.Maintenance/Alarm",
    "maintenance/status": "etcdserverpb.Maintenance/Status",
    "maintenance/defragment": "etcdserverpb.Maintenance/Defragment",
    "maintenance/hash": "etcdserverpb.Maintenance/Hash",
    "maintenance/hashkv": "etcdserverpb.Maintenance/HashKV",
    "maintenance/snapshot": "etcdserverpb.Maintenance/Snapshot",
    "maintenance/transfer-leadership": "etcdserverpb.Maintenance/MoveLeader",
    "maintenance/downgrade": "etcdserverpb.Maintenance/Downgrade",
    "auth/enable": "etcdserverpb.Auth/AuthEnable",
    "auth/disable": "etcdserverpb.Auth/AuthDisable",
    "auth/status": "etcdserverpb.Auth/AuthStatus",
    "auth/authenticate": "etcdserverpb.Auth/Authenticate",
    "auth/user/add": "etcdserverpb.Auth/UserAdd",
    "auth/user/get": "etcdserverpb.Auth/UserGet",
    "auth/user/list": "etcdserverpb.Auth/UserList",
    "auth/user/delete": "etcdserverpb.Auth/UserDelete",
    "auth/user/changepw": "etcdserverpb.Auth/UserChangePassword",
    "auth/user/grant": "etcdserverpb.Auth/UserGrantRole",
    "auth/user/revoke": "etcdserverpb.Auth/UserRevokeRole",
    "auth/role/add": "etcdserverpb.Auth/RoleAdd",
    "auth/role/get": "etcdserverpb.Auth/RoleGet",
    "auth/role/list": "etcdserverpb.Auth/RoleList",
    "auth/role/delete": "etcdserverpb.Auth/RoleDelete",
    "auth/role/grant": "etcdserverpb.Auth/RoleGrantPermission",
    "auth/role/revoke": "etcdserverpb.Auth/RoleRevokePermission",
    "lock/lock": "v3lockpb.Lock/Lock",
    "lock/unlock": "v3lockpb.Lock/Unlock",
    "election/campaign": "v3electionpb.Election/Campaign",
    "election/proclaim": "v3electionpb.Election/Proclaim",
    "election/leader": "v3electionpb.Election/Leader",
    "election/observe": "v3electionpb.Election/Observe",
    "election/resign": "v3electionpb.Election/Resign",
}
"""Path after `PREFIX` → RPC."""

_WAITING: Final = frozenset({"v3lockpb.Lock/Lock", "v3electionpb.Election/Campaign"})
"""Unary RPCs that wait for other clients, with no end but the client's own."""


@dataclass(frozen=True, slots=True)
class Route:
    """One binding.

    Attributes:
        rpc: ``/package.Service/Method``.
        request, response: the message classes.
        client_streaming: the body is a sequence of requests, else exactly one.
        server_streaming: the answer is lines of results, else one message.
        waits: the call may last for ever, so the client's end must be noticed.
    """

    rpc: str
    request: type[Message]
    response: type[Message]
    client_streaming: bool
    server_streaming: bool
    waits: bool


def _services() -> dict[str, ServiceDescriptor]:
    files = (rpc_pb2.DESCRIPTOR, lock_pb2.DESCRIPTOR, election_pb2.DESCRIPTOR)
    return {s.full_name: s for file in files for s in file.services_by_name.values()}


def _routes() -> dict[str, Route]:
    services = _services()
    routes = {}
    for path, rpc in _BINDINGS.items():
        service, _, name = rpc.partition("/")
        method: MethodDescriptor = services[service].methods_by_name[name]
        routes[PREFIX + path] = Route(
            rpc="/" + rpc,
            request=message_factory.GetMessageClass(method.input_type),
            response=message_factory.GetMessageClass(method.output_type),
            client_streaming=method.client_streaming,
            server_streaming=method.server_streaming,
            waits=method.server_streaming or rpc in _WAITING,
        )
    return routes


ROUTES: Final[Mapping[str, Route]] = _routes()
"""Full path → binding."""


def find_route(path: str) -> Route | None:
    """Return the binding of a path, if there is one."""
    if path.startswith(ALIAS):
        path = PREFIX + path[len(ALIAS) :]
    return ROUTES.get(path)
