"""Bootstrap by v3 discovery: members of a new cluster find each other through another etcd cluster.

Each registers itself there under one token and waits until as many as were asked for have done so;
the first of them, in the order of their registration, are the cluster (keys and values are etcd's,
so members of etcd and of this server could meet under one token):

    /_etcd/registry/<token>/_config/size          the number of members, put there beforehand
    /_etcd/registry/<token>/members/<id, hex>     "name=url,name=url"

It runs once, before a member has data, and blocks: nothing else is there to be served yet.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import cycle
from typing import Any, Final, TypeVar

import grpc

from kvstore.membership.ids import compute_member_id
from kvstore.pb import rpc_pb2
from kvstore.server.config import (
    Config,
    ConfigError,
    Discovery,
    DiscoveryFailed,
    parse_initial_cluster,
)

log = logging.getLogger("discovery")

PREFIX: Final = "/_etcd/registry"
MAX_BACKOFF_S: Final = 256.0
"""Longest pause before the discovery service is asked again; there is no end to the attempts."""
FIRST_BACKOFF_S: Final = 2.0

_TEMPORARY: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)

T = TypeVar("T")


def discover(config: Config) -> Config:
    """Register this member and return the configuration with the cluster that has formed.

    Raises:
        DiscoveryFailed: the token has no size, or its cluster is full without this member.
        ConfigError: another member has registered something that is no URL.
    """
    discovery = config.discovery
    assert discovery is not None
    urls = config.initial_advertise_peer_urls
    member_id = compute_member_id(urls, discovery.token)
    registry = Registry(discovery)
    try:
        text = registry.join(f"{member_id:x}", ",".join(f"{config.name}={url}" for url in urls))
    finally:
        registry.close()
    try:
        cluster = parse_initial_cluster(text)
    except ConfigError as error:
        raise ConfigError(f"discovery: invalid peer URL: {error}") from None
    log.info("discovery joined cluster successfully", extra={"cluster": text})
    return replace(config, initial_cluster=cluster, initial_cluster_token=discovery.token)


class Registry:
    """One token's keys at the discovery service."""

    def __init__(self, discovery: Discovery) -> None:
        self._discovery = discovery
        self._prefix = f"{PREFIX}/{discovery.token}"
        self._services = cycle([_Service(discovery, target) for target in discovery.endpoints])
        self._service = next(self._services)
        self._backoff_s = FIRST_BACKOFF_S

    def close(self) -> None:
        """Close all connections."""
        for _ in self._discovery.endpoints:
            self._service.close()
            self._service = next(self._services)

    def join(self, member_id: str, value: str) -> str:
        """Register and wait for the others; return their values as one --initial-cluster."""
        own = f"{self._prefix}/members/{member_id}".encode()
        size = self._again(self._size)
        members, _ = self._again(self._members)
        if own not in members and len(members) >= size:
            raise DiscoveryFailed("discovery: cluster is full")
        self._again(lambda: self._service.put(own, value.encode()))
        log.info("register member itself successfully", extra={"member": value})
        while True:
            members, revision = self._again(self._members)
            if own not in list(members)[:size]:
                raise DiscoveryFailed("discovery: cluster is full")
            if len(members) >= size:
                return ",".join(list(members.values())[:size])
            found = {"cluster-size": size, "found-peers": len(members)}
            log.info("waiting for peers from discovery service", extra=found)
            self._again(partial(self._wait, revision))

    def _wait(self, revision: int) -> None:
        self._service.wait(self._members_key(), revision)

    def _members_key(self) -> bytes:
        return f"{self._prefix}/members".encode()

    def _size(self) -> int:
        found = self._service.get(f"{self._prefix}/_config/size".encode(), b"")
        if not found.kvs:
            raise DiscoveryFailed("discovery: size key not found")
        try:
            size = int(found.kvs[0].value)
        except ValueError:
            size = 0
        if size <= 0:
            raise DiscoveryFailed("discovery: size key is bad")
        return size

    def _members(self) -> tuple[dict[bytes, str], int]:
        """Return the members in the order of their registration, and the revision seen."""
        key = self._members_key()
        found = self._service.get(key, key[:-1] + bytes([key[-1] + 1]))
        members = {}
        for kv in sorted(found.kvs, key=lambda kv: kv.create_revision):
            value = kv.value.decode(errors="replace").strip()
            if "=" in value:
                members[kv.key.strip()] = value
            else:
                log.warning("invalid peer info from discovery service", extra={"info": value})
        return members, found.header.revision

    def _again(self, ask: Callable[[], T]) -> T:
        """Ask until there is an answer, of one endpoint after the other, ever more patiently."""
        while True:
            try:
                answer = ask()
            except grpc.RpcError as error:
                fields = {"error": _text(error), "backoff": f"{self._backoff_s:g}s"}
                log.warning("retry connecting to discovery service", extra=fields)
                self._service.log_out()
                time.sleep(self._backoff_s)
                self._backoff_s = min(2 * self._backoff_s, MAX_BACKOFF_S)
                self._service = next(self._services)
                continue
            self._backoff_s = FIRST_BACKOFF_S
            return answer


class _Service:
    """One endpoint of the discovery service. Every call raises grpc.RpcError."""

    def __init__(self, discovery: Discovery, target: str) -> None:
        self._discovery = discovery
        self._channel = _channel(discovery, target.partition("://")[2] or target)
        self._timeout_s = discovery.dial_timeout_s + discovery.request_timeout_s
        self._metadata: tuple[tuple[str, str], ...] | None = None

    def close(self) -> None:
        self._channel.close()

    def log_out(self) -> None:
        """Ask for a token again with the next call: this one may be what was refused."""
        self._metadata = None

    def get(self, key: bytes, range_end: bytes) -> rpc_pb2.RangeResponse:
        request = rpc_pb2.RangeRequest(key=key, range_end=range_end)
        found: rpc_pb2.RangeResponse = self._call("KV/Range", request, rpc_pb2.RangeResponse)
        return found

    def put(self, key: bytes, value: bytes) -> None:
        self._call("KV/Put", rpc_pb2.PutRequest(key=key, value=value), rpc_pb2.PutResponse)

    def wait(self, prefix: bytes, revision: int) -> None:
        """Return when something under `prefix` has changed after `revision`."""
        watch = self._channel.stream_stream(
            "/etcdserverpb.Watch/Watch",
            request_serializer=rpc_pb2.WatchRequest.SerializeToString,
            response_deserializer=rpc_pb2.WatchResponse.FromString,
        )
        create = rpc_pb2.WatchCreateRequest(
            key=prefix,
            range_end=prefix[:-1] + bytes([prefix[-1] + 1]),
            start_revision=revision + 1,
        )
        requests = iter([rpc_pb2.WatchRequest(create_request=create)])
        responses: Iterator[Any] = watch(
            requests, metadata=self._authenticated(), wait_for_ready=True
        )
        for response in responses:
            if response.events or response.canceled:
                return

    def _call(self, name: str, request: Any, response: Any, *, login: bool = False) -> Any:
        call = self._channel.unary_unary(
            f"/etcdserverpb.{name}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        metadata = () if login else self._authenticated()
        return call(request, timeout=self._timeout_s, metadata=metadata, wait_for_ready=True)

    def _authenticated(self) -> tuple[tuple[str, str], ...]:
        """Return the metadata of a call: the token of the user, asked for once.

        Raises DiscoveryFailed when user or password are refused.
        """
        discovery = self._discovery
        if self._metadata is None and discovery.user:
            request = rpc_pb2.AuthenticateRequest(name=discovery.user, password=discovery.password)
            try:
                answer = self._call(
                    "Auth/Authenticate", request, rpc_pb2.AuthenticateResponse, login=True
                )
            except grpc.RpcError as error:
                if isinstance(error, grpc.Call) and error.code() in _TEMPORARY:
                    raise
                raise DiscoveryFailed(f"discovery: {_text(error)}") from None
            self._metadata = (("token", answer.token),)
        return self._metadata or ()


def _text(error: grpc.RpcError) -> str:
    return str(error.details() if isinstance(error, grpc.Call) else error)


def _channel(discovery: Discovery, target: str) -> Any:
    options = [
        ("grpc.keepalive_time_ms", int(discovery.keepalive_time_s * 1000)),
        ("grpc.keepalive_timeout_ms", int(discovery.keepalive_timeout_s * 1000)),
        ("grpc.enable_retries", 0),
    ]
    if discovery.insecure_transport:
        return grpc.insecure_channel(target, options=options)
    credentials = grpc.ssl_channel_credentials(
        _read(discovery.cacert), _read(discovery.key), _read(discovery.cert)
    )
    return grpc.secure_channel(target, credentials, options=options)


def _read(path: str) -> bytes | None:
    if not path:
        return None
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise DiscoveryFailed(f"discovery: open {path}: {error.strerror}") from None
