"""How a member without data finds out what cluster it belongs to.

It asks the peers named in ``--initial-cluster`` over HTTP, before anything of it runs, so this is
plain blocking code. A member that joins takes the cluster's id and its own from there; one that
bootstraps makes sure that it has not done so before: after a lost disk it must not vote again.
Checks and texts are etcd's.
"""

from __future__ import annotations

import http.client
import json
import logging
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kvstore.errors import TOO_MANY_LEARNERS
from kvstore.membership.cluster import MemberInfo
from kvstore.membership.urls import is_tls, is_unix, split_host_port
from kvstore.server.config import Config
from kvstore.server.membership import PEER_PROTOCOL_HEADER
from kvstore.server.rules import verify_join
from kvstore.server.urls import same_addresses
from kvstore.sockets import unix_path
from kvstore.version import CLUSTER_VERSION

log = logging.getLogger("server")

FETCH_TIMEOUT_S = 10.0
"""Longest wait for one peer's answer when joining."""
BOOTSTRAP_TIMEOUT_S = 1.0
"""The same when a new cluster is bootstrapped: mostly nobody is there yet."""
MAX_ANSWER_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Remote:
    """The cluster as a peer describes it."""

    cluster_id: int
    members: dict[int, MemberInfo]
    url: str
    """The peer that was asked."""
    ours: bool
    """Whether that is a member of this server's kind."""


class JoinError(Exception):
    """This member cannot join or bootstrap; the text says why."""


def find_cluster(config: Config) -> tuple[int, Remote]:
    """Return this member's id, and the running cluster that it was added to.

    Raises:
        ConfigError: the flags contradict each other.
        JoinError: nobody answers, or the cluster is not the one that the flags say.
    """
    verify_join(config)
    remote = fetch(_remote_urls(config), FETCH_TIMEOUT_S)
    if remote is None:
        raise JoinError(
            "cannot fetch cluster info from peer urls: could not retrieve cluster information from"
            " the given URLs"
        )
    if not remote.ours:
        raise JoinError(
            f"cannot join the cluster at {remote.url}: its members speak another peer protocol"
            " (they are etcd's); restore a snapshot of it into a cluster of this server instead"
        )
    member_id = match(config, remote)
    if sum(info.is_learner for info in remote.members.values()) > config.max_learners:
        raise JoinError(TOO_MANY_LEARNERS.message)
    _check_version(remote.url)
    _check_not_bootstrapped(member_id, remote)
    return member_id, remote


def check_new(config: Config, member_id: int) -> None:
    """Raise `JoinError` if this member of a new cluster has been bootstrapped already."""
    remote = fetch(_remote_urls(config), BOOTSTRAP_TIMEOUT_S)
    if remote is not None:
        _check_not_bootstrapped(member_id, remote)


def _check_not_bootstrapped(member_id: int, remote: Remote) -> None:
    """A member that has published itself has voted: it cannot come back without its log."""
    info = remote.members.get(member_id)
    if info is not None and info.client_urls:
        raise JoinError(
            f"member {member_id:x} has already been bootstrapped, and its data are missing here:"
            f" remove it from the cluster and add it again"
        )


def match(config: Config, remote: Remote) -> int:
    """Return this member's id: that of the remote member with its peer URLs.

    Every member of the flags must be in the cluster, by its URLs, and the other way round. May
    block on the resolver. Raises JoinError.
    """
    local = dict(config.initial_cluster)
    problem = ""
    own = 0
    if len(local) != len(remote.members):
        problem = "member count is unequal"
    for info in remote.members.values() if not problem else ():
        for name, urls in local.items():
            if same_addresses(info.peer_urls, urls):
                own = info.id if name == config.name else own
                break
        else:
            urls_text = " ".join(info.peer_urls)
            problem = (
                f"PeerURLs: no match found for existing member ({info.id:x}, [{urls_text}]),"
                " last resolver error (<nil>)"
            )
            break
    if problem or not own:
        known = _describe(remote)
        raise JoinError(f"error validating peerURLs {known}: {problem or 'no match found'}")
    return own


def _describe(remote: Remote) -> str:
    """The cluster in etcd's words."""
    members = " ".join(
        f"&{{ID:{info.id:x} RaftAttributes:{{PeerURLs:[{' '.join(info.peer_urls)}]"
        f" IsLearner:{str(info.is_learner).lower()}}} Attributes:{{Name:{info.name}"
        f" ClientURLs:[{' '.join(info.client_urls)}]}}}}"
        for _, info in sorted(remote.members.items())
    )
    return f"{{ClusterID:{remote.cluster_id:x} Members:[{members}] RemovedMemberIDs:[]}}"


def _remote_urls(config: Config) -> list[str]:
    return sorted(
        url for name, urls in config.initial_cluster if name != config.name for url in urls
    )


def fetch(urls: Iterable[str], timeout_s: float) -> Remote | None:
    """Ask one peer after the other for the members; None if nobody answers."""
    for url in urls:
        try:
            body, headers = _get(url, "/members", timeout_s)
            members = {info.id: info for info in map(_member, json.loads(body))}
            cluster_id = int(headers["X-Etcd-Cluster-Id"] or "", 16)
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
            log.info("could not ask %s for the cluster: %s", url, error)
            continue
        if members:
            return Remote(cluster_id, members, url, headers[PEER_PROTOCOL_HEADER] is not None)
    return None


def _check_version(url: str) -> None:
    """Refuse a cluster that is newer than this server."""
    try:
        body, _ = _get(url, "/version", FETCH_TIMEOUT_S)
        cluster = str(json.loads(body)["etcdcluster"])
        newer = _minor(cluster) > _minor(CLUSTER_VERSION)
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return  # not decided yet
    if newer:
        raise JoinError(
            f"incompatible with current running cluster: it is at version {cluster}, this server at"
            f" {CLUSTER_VERSION}"
        )


def _minor(version: str) -> tuple[int, int]:
    major, minor, _ = version.split(".")
    return int(major), int(minor)


def _member(found: dict[str, Any]) -> MemberInfo:
    return MemberInfo(
        int(found["id"]),
        str(found.get("name", "")),
        tuple(map(str, found["peerURLs"])),
        tuple(map(str, found.get("clientURLs", ()))),
        bool(found.get("isLearner", False)),
    )


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _connection(url: str, timeout_s: float) -> http.client.HTTPConnection:
    if is_tls(url):
        raise OSError("peers are not reached by TLS yet")
    if is_unix(url):
        return _UnixConnection(unix_path(url), timeout_s)
    host, port = split_host_port(url)
    return http.client.HTTPConnection(host, port, timeout=timeout_s)


def _get(url: str, path: str, timeout_s: float) -> tuple[bytes, http.client.HTTPMessage]:
    """Raises OSError, HTTPException, ValueError."""
    connection = _connection(url, timeout_s)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read(MAX_ANSWER_BYTES + 1)
    finally:
        connection.close()
    if answer.status != http.client.OK or len(body) > MAX_ANSWER_BYTES:
        raise OSError(f"status {answer.status}, {len(body)} bytes")
    return body, answer.headers
