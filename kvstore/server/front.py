"""What a member serves where: gRPC, the JSON gateway and the plain HTTP paths on its ports.

Client ports serve all of it, unless --listen-client-http-urls moves HTTP to ports of its own; then
they serve gRPC alone. Metrics ports serve /metrics and the health paths, without access control,
and from the start on: a probe must get an answer while the cluster has no leader yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvstore.gateway.app import Gateway
from kvstore.gateway.routes import ALIAS, PREFIX
from kvstore.membership.urls import is_unix, split_host_port
from kvstore.rpc.access import AccessControl
from kvstore.rpc.grpc import AsgiApp, GrpcRouter, Receive, Scope, Send
from kvstore.rpc.http import (
    Handler,
    HttpRouter,
    error,
    health_routes,
    metrics_routes,
    respond,
    status_routes,
)
from kvstore.rpc.listener import Listener
from kvstore.server.config import Config
from kvstore.server.debug_vars import debug_vars
from kvstore.server.health import HealthChecks
from kvstore.sockets import listen_tcp, listen_unix, unix_path
from kvstore.version import versions

if TYPE_CHECKING:
    from kvstore.server.process import Server


@dataclass(slots=True)
class Front:
    """The applications of a member's ports.

    Attributes:
        router: gRPC, and where ports are shared the rest behind it.
        http: everything but gRPC.
        metrics: of the metrics ports.
        gateway: None when --enable-grpc-gateway is off.
        health: what the health paths check.
    """

    router: GrpcRouter
    http: AsgiApp
    metrics: AsgiApp
    gateway: Gateway | None
    health: HealthChecks

    def close(self) -> None:
        """Give up what open calls do not need any more: there are none."""
        if self.gateway is not None:
            self.gateway.close()


def build_front(server: Server) -> Front:
    """Make the applications. The services are not registered yet."""
    config = server.config
    health = HealthChecks(server.core, server.member.applier.alarms)
    watched = {
        **metrics_routes(server.metrics.scrape),
        **health_routes(health.health),
        **health.probe_routes(),
    }
    http = HttpRouter({**watched, **_status_routes(server)})
    guarded = AccessControl(http, origins=config.cors, hosts=config.host_whitelist)
    router = GrpcRouter(
        _not_grpc if config.listen_client_http_urls else guarded,
        max_recv_bytes=config.max_receive_bytes,
    )
    gateway = None
    if config.enable_grpc_gateway:
        gateway = Gateway(router, max_recv_bytes=config.max_receive_bytes)
        http.mount(PREFIX, gateway)
        http.mount(ALIAS, gateway)
    return Front(router, guarded, HttpRouter(watched), gateway, health)


def _status_routes(server: Server) -> dict[str, Handler]:
    def version() -> dict[str, str]:
        return versions(server.state.cluster.version)

    return status_routes(version=version, variables=lambda: debug_vars(server))


async def _not_grpc(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse what is not gRPC on a port that serves nothing else."""
    if scope["type"] == "http":
        await respond(send, error(415, "this port serves gRPC only (--listen-client-http-urls)"))


def client_listeners(server: Server, front: Front) -> list[Listener]:
    """Bind the client ports. Raises OSError naming the address that cannot be bound."""
    config = server.config
    http_urls = config.listen_client_http_urls
    bound = [
        _listener(front.router, url, config, http1=not http_urls)
        for url in config.listen_client_urls
    ]
    return bound + [_listener(front.http, url, config) for url in http_urls]


def metrics_listeners(server: Server, front: Front) -> list[Listener]:
    """Bind the metrics ports. Raises OSError naming the address that cannot be bound."""
    config = server.config
    return [_listener(front.metrics, url, config) for url in config.listen_metrics_urls]


def _listener(app: AsgiApp, url: str, config: Config, *, http1: bool = True) -> Listener:
    if is_unix(url):
        bound = listen_unix(unix_path(url))
    else:
        bound = listen_tcp(*split_host_port(url), config.client_sockets)
    return Listener(app, bound, max_concurrent_streams=config.max_concurrent_streams, http1=http1)
