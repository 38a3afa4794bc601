"""Members that join a running cluster and leave it, as an operator does it.

etcd checks whether the others are healthy before it takes a change, and refuses for some seconds
after each one; so all of this asks again until its deadline.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import grpc

from kvstore.pb import rpc_pb2
from kvstore.testing.processes import NotInTime, wait_until

if TYPE_CHECKING:
    from kvstore.testing.cluster import Cluster

CHANGE_S: Final = 60.0
"""Longest wait for one change of the members."""
_ASK_S: Final = 5.0
_REFUSED: Final = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.PERMISSION_DENIED,
)
"""Asking again helps nothing."""


def add(cluster: Cluster, number: int, learner: bool, timeout_s: float) -> None:
    """Let the others know a member that has no data yet, and how it is to start."""
    member = cluster.members[number]
    request = rpc_pb2.MemberAddRequest(peerURLs=[member.peer_url], isLearner=learner)

    def added() -> bool:
        if _id_of(cluster, number) is None:  # an answer may have been lost
            _ask(cluster, number, "MemberAdd", request, rpc_pb2.MemberAddResponse)
        return True

    _again(added, timeout_s, f"{member.name} is added")
    # A joining etcd asks any of them, and ends if that one has not heard of it yet.
    for other in cluster.numbers:
        if cluster.members[other].running:
            heard = partial(_knows, cluster, other, member.peer_url)
            _again(heard, timeout_s, f"{cluster.members[other].name} knows {member.name}")
    member.removed, member.learner = False, learner
    together = [cluster.members[i] for i in cluster.numbers]
    member.joins = ",".join(f"{m.name}={m.peer_url}" for m in together)


def promote(cluster: Cluster, number: int, timeout_s: float) -> None:
    """Make a learner a voter, as soon as it has caught up."""
    member = cluster.members[number]

    def promoted() -> bool:
        listed = _listed(cluster, number)
        if listed is None or not listed.isLearner:
            return listed is not None
        request = rpc_pb2.MemberPromoteRequest(ID=listed.ID)
        _ask(cluster, number, "MemberPromote", request, rpc_pb2.MemberPromoteResponse)
        return True

    _again(promoted, timeout_s, f"{member.name} is promoted")
    member.learner = False


def remove(cluster: Cluster, number: int, timeout_s: float) -> None:
    """Take a member out of the cluster; its process ends by itself, or is killed after a while."""
    member = cluster.members[number]

    def removed() -> bool:
        found = _id_of(cluster, number)
        if found is not None:
            request = rpc_pb2.MemberRemoveRequest(ID=found)
            _ask(cluster, number, "MemberRemove", request, rpc_pb2.MemberRemoveResponse)
        return True

    _again(removed, timeout_s, f"{member.name} is removed")
    member.removed = True
    with contextlib.suppress(NotInTime):
        if member.process is not None:
            member.wait_exit()
    member.kill()


def wipe(cluster: Cluster, number: int) -> None:
    """Delete the data of a member that does not run."""
    member = cluster.members[number]
    if member.running:
        raise RuntimeError(f"{member.name} runs")
    shutil.rmtree(member.data_dir, ignore_errors=True)


def _knows(cluster: Cluster, other: int, url: str) -> bool:
    call = cluster.channel(other).unary_unary(
        "/etcdserverpb.Cluster/MemberList",
        request_serializer=rpc_pb2.MemberListRequest.SerializeToString,
        response_deserializer=rpc_pb2.MemberListResponse.FromString,
    )
    answer = call(rpc_pb2.MemberListRequest(linearizable=False), timeout=_ASK_S)
    return any(url in member.peerURLs for member in answer.members)


def _again(step: Callable[[], bool], timeout_s: float, what: str) -> None:
    last = ""

    def done() -> bool:
        nonlocal last
        try:
            return step()
        except grpc.RpcError as error:
            last = f"{error.code().name}: {error.details()}"
            if error.code() in _REFUSED:
                raise
            return False

    try:
        wait_until(done, timeout_s, what, poll_s=0.2)
    except NotInTime as error:
        raise NotInTime(f"{error} ({last})") from None


def _ask(cluster: Cluster, about: int, method: str, request: Any, response: Any) -> Any:
    """Ask one member, another than that in question; the next one if it does not answer."""
    others = [i for i in cluster.numbers if i != about and cluster.members[i].running]
    failure: grpc.RpcError | None = None
    for number in others:
        if cluster.members[number].learner:
            continue
        call = cluster.channel(number).unary_unary(
            f"/etcdserverpb.Cluster/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        try:
            return call(request, timeout=_ASK_S)
        except grpc.RpcError as error:
            failure = error
            if error.code() not in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.DEADLINE_EXCEEDED,
            ):
                raise
    if failure is None:
        raise RuntimeError("no other member runs")
    raise failure


def _listed(cluster: Cluster, number: int) -> Any:
    """What the others say of a member, None if they do not know it."""
    url = cluster.members[number].peer_url
    request = rpc_pb2.MemberListRequest(linearizable=True)
    answer = _ask(cluster, number, "MemberList", request, rpc_pb2.MemberListResponse)
    return next((m for m in answer.members if url in m.peerURLs), None)


def _id_of(cluster: Cluster, number: int) -> int | None:
    listed = _listed(cluster, number)
    return None if listed is None else int(listed.ID)
