"""The RPCs of a member: which path is served by which method of which service."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from kvstore.pb import election_pb2, health_pb2, lock_pb2, rpc_pb2
from kvstore.rpc.auth import UNSERVED, AuthService
from kvstore.rpc.downgrade import DowngradeService
from kvstore.rpc.election import ElectionService
from kvstore.rpc.grpc import GrpcRouter, Timing
from kvstore.rpc.health import HealthService
from kvstore.rpc.kv import KVService
from kvstore.rpc.lock import LockService
from kvstore.rpc.range_stream import RangeStreamService
from kvstore.rpc.snapshot import SnapshotService
from kvstore.rpc.waiting import Lines
from kvstore.rpc.watch import WatchService
from kvstore.server.features import STOP_GRPC_SERVICE_ON_DEFRAG
from kvstore.server.metrics import RANGE_PATH
from kvstore.server.slow import SlowRequests

if TYPE_CHECKING:
    from kvstore.server.process import Server


ON_LEARNER: Final[dict[str, Callable[[Any], bool]]] = {
    "/etcdserverpb.Maintenance/Status": lambda request: True,
    "/etcdserverpb.Maintenance/Snapshot": lambda stream: True,
    "/etcdserverpb.KV/Range": lambda request: bool(request.serializable),
}
"""What a learner serves; everything else is refused (GEN-15)."""


def register_services(router: GrpcRouter, server: Server) -> None:
    """Register all services of a member."""
    _register(router, server)
    for path, allowed in ON_LEARNER.items():
        router.methods[path].on_learner = allowed
    SlowRequests(server.config, server.member.apply_times).watch(router)
    for path, method in router.methods.items():
        if path == RANGE_PATH or server.config.metrics == "extensive":
            method.timing = Timing()


def _register(router: GrpcRouter, server: Server) -> None:
    core = server.core
    router.has_leader = lambda: bool(core.member.raft.leader)
    kv = server.kv
    watch = WatchService(core)
    lease = server.leases
    cluster = server.members
    maintenance = server.maintenance
    downgrade = DowngradeService(core)
    health = HealthService()
    if STOP_GRPC_SERVICE_ON_DEFRAG in server.config.feature_gates:
        server.defragmenter.on_change = lambda running: health.set_serving(not running)
    pb = rpc_pb2
    unary, stream = router.unary, router.stream
    unary("/etcdserverpb.KV/Range", pb.RangeRequest.FromString, kv.range)
    stream(
        "/etcdserverpb.KV/RangeStream",
        pb.RangeRequest.FromString,
        RangeStreamService(core).range_stream,
        kind="server_stream",
    )
    unary("/etcdserverpb.KV/Put", pb.PutRequest.FromString, kv.put)
    unary("/etcdserverpb.KV/DeleteRange", pb.DeleteRangeRequest.FromString, kv.delete_range)
    unary("/etcdserverpb.KV/Txn", pb.TxnRequest.FromString, kv.txn)
    unary("/etcdserverpb.KV/Compact", pb.CompactionRequest.FromString, kv.compact)
    stream("/etcdserverpb.Watch/Watch", pb.WatchRequest.FromString, watch.watch)
    unary("/etcdserverpb.Lease/LeaseGrant", pb.LeaseGrantRequest.FromString, lease.grant)
    unary("/etcdserverpb.Lease/LeaseRevoke", pb.LeaseRevokeRequest.FromString, lease.revoke)
    unary("/etcdserverpb.Lease/LeaseLeases", pb.LeaseLeasesRequest.FromString, lease.leases)
    unary(
        "/etcdserverpb.Lease/LeaseTimeToLive",
        pb.LeaseTimeToLiveRequest.FromString,
        lease.time_to_live,
    )
    stream(
        "/etcdserverpb.Lease/LeaseKeepAlive", pb.LeaseKeepAliveRequest.FromString, lease.keep_alive
    )
    service = "/etcdserverpb.Cluster/"
    unary(service + "MemberList", pb.MemberListRequest.FromString, cluster.member_list)
    unary(service + "MemberAdd", pb.MemberAddRequest.FromString, cluster.member_add)
    unary(service + "MemberRemove", pb.MemberRemoveRequest.FromString, cluster.member_remove)
    unary(service + "MemberUpdate", pb.MemberUpdateRequest.FromString, cluster.member_update)
    unary(service + "MemberPromote", pb.MemberPromoteRequest.FromString, cluster.member_promote)
    service = "/etcdserverpb.Maintenance/"
    unary(service + "Status", pb.StatusRequest.FromString, maintenance.status)
    unary(service + "Hash", pb.HashRequest.FromString, maintenance.hash)
    unary(service + "HashKV", pb.HashKVRequest.FromString, maintenance.hash_kv)
    unary(service + "Alarm", pb.AlarmRequest.FromString, maintenance.alarm)
    unary(service + "Defragment", pb.DefragmentRequest.FromString, maintenance.defragment)
    unary(service + "Downgrade", pb.DowngradeRequest.FromString, downgrade.downgrade)
    stream(
        service + "Snapshot",
        pb.SnapshotRequest.FromString,
        SnapshotService(server.images.open).snapshot,
        kind="server_stream",
    )
    unary(service + "MoveLeader", pb.MoveLeaderRequest.FromString, maintenance.move_leader)
    _register_concurrency(router, server, kv)
    check = health_pb2.HealthCheckRequest.FromString
    unary("/grpc.health.v1.Health/Check", check, health.check)
    unary("/grpc.health.v1.Health/List", health_pb2.HealthListRequest.FromString, health.list)
    stream("/grpc.health.v1.Health/Watch", check, health.watch, kind="server_stream")
    _register_auth(router, AuthService(core))


def _register_concurrency(router: GrpcRouter, server: Server, kv: KVService) -> None:
    core = server.core
    lines = Lines(core, kv, server.leases)
    lock = LockService(core, kv, lines)
    election = ElectionService(core, lines)
    unary, waiting, stream = router.unary, router.waiting_unary, router.stream
    waiting("/v3lockpb.Lock/Lock", lock_pb2.LockRequest.FromString, lock.lock)
    unary("/v3lockpb.Lock/Unlock", lock_pb2.UnlockRequest.FromString, lock.unlock)
    service, pb = "/v3electionpb.Election/", election_pb2
    waiting(service + "Campaign", pb.CampaignRequest.FromString, election.campaign)
    unary(service + "Proclaim", pb.ProclaimRequest.FromString, election.proclaim)
    unary(service + "Leader", pb.LeaderRequest.FromString, election.leader)
    unary(service + "Resign", pb.ResignRequest.FromString, election.resign)
    stream(service + "Observe", pb.LeaderRequest.FromString, election.observe, kind="server_stream")


def _register_auth(router: GrpcRouter, auth: AuthService) -> None:
    pb, prefix = rpc_pb2, "/etcdserverpb.Auth/"
    router.unary(prefix + "AuthStatus", pb.AuthStatusRequest.FromString, auth.status)
    router.unary(prefix + "AuthDisable", pb.AuthDisableRequest.FromString, auth.disable)
    router.unary(prefix + "Authenticate", pb.AuthenticateRequest.FromString, auth.authenticate)
    for name in UNSERVED:
        router.unary(prefix + name, bytes, auth.unserved)
