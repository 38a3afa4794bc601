"""One client port: a bound socket and the HTTP server that serves an ASGI application on it.

The socket is made here, not by h2corn, for an error that names the address, and for TCP keepalive,
which accepted connections inherit: h2corn sends no HTTP/2 pings of its own, so this is what ends
the watch streams of a client whose machine vanished. Nothing here knows what the application does.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Final
from urllib.parse import urlsplit

from h2corn import Config, Server

from kvstore.rpc.grpc import AsgiApp

BACKLOG: Final = 4096
MAX_CONCURRENT_STREAMS: Final = 2**32 - 1
"""Per connection: unlimited, as in etcd (GEN-20)."""

MAX_HEADER_BYTES: Final = 65_536
"""Header list of one request, both protocols; a JWT of a few KiB has room."""

MAX_HEADER_FIELDS: Final = 100

MAX_HTTP_BODY_BYTES: Final = 16_777_216
"""Body of one request that is not gRPC; gRPC has its own limit (GEN-17)."""

STREAM_WINDOW_BYTES: Final = 1_048_576
CONNECTION_WINDOW_BYTES: Final = 16_777_216
"""Unread request bytes the server may hold for one connection; a stream may hold a 16th of it."""

HEADER_TIMEOUT_S: Final = 10.0
HANDSHAKE_TIMEOUT_S: Final = 5.0

STOP_GRACE_S: Final = 5.0
"""Default time that calls have to end after :meth:`Listener.stop`, before they are cancelled."""

STOP_LINGER_S: Final = 0.2
"""Pause before a stop closes connections. h2corn closes one as soon as nothing is open on it; what
the client was sending at that moment makes the kernel reset the connection, and answers on their
way are lost (seen with grpcio: "server stopped" arrived as "connection reset")."""

STOP_ACCEPT_S: Final = 0.1
"""Pause between telling h2corn to stop and taking its socket away. An accept that fails first ends
the whole server at once, open calls and all (seen under load, every few stops)."""

KEEPALIVE_IDLE_S: Final = 30
KEEPALIVE_INTERVAL_S: Final = 10
KEEPALIVE_PROBES: Final = 3

_HTTP_SERVER_THREADS: Final = 1
"""The event loop is the bottleneck; a second thread takes its core away (docs/decisions.md)."""

log = logging.getLogger(__name__)


class AddressInUse(OSError):
    """The port is taken, or the address is not this machine's; the text names it."""


class Listener:
    """Serves ``app`` on ``host:port`` from :meth:`start` to :meth:`stop`, once.

    Attributes:
        host: as given.
        port: the port bound, also when 0 was asked for; known from construction on.
    """

    def __init__(
        self,
        app: AsgiApp,
        host: str,
        port: int,
        *,
        max_concurrent_streams: int = MAX_CONCURRENT_STREAMS,
        stop_grace_s: float = STOP_GRACE_S,
        http1: bool = True,
    ) -> None:
        """Bind and listen at once, so that a taken port fails before anything else has started.

        Args:
            app: an ASGI application (``GrpcRouter``).
            host: a name or address; empty for all interfaces.
            port: 0 to 65535; 0 lets the kernel choose.
            max_concurrent_streams: per connection, 1 to 2**32 - 1.
            stop_grace_s: how long open calls may go on after ``stop`` before they are cancelled.
            http1: serve HTTP/1.1 too, not HTTP/2 alone.

        Raises:
            AddressInUse: the address cannot be bound. OSError: the name does not resolve.
        """
        self._socket = _bound_socket(host, port)
        self.host = host
        self.port: int = self._socket.getsockname()[1]
        config = _config(self._socket.fileno(), max_concurrent_streams, stop_grace_s, http1)
        self._server = Server(app, config)
        self._serving: asyncio.Task[None] | None = None

    @classmethod
    def for_url(
        cls, app: AsgiApp, url: str, max_concurrent_streams: int = MAX_CONCURRENT_STREAMS
    ) -> Listener:
        """Bind what a listen-client-urls entry names. Raises ValueError for anything but http."""
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.port is None:
            raise ValueError(f"cannot listen on {url}: only http://host:port is supported")
        return cls(
            app, parts.hostname or "", parts.port, max_concurrent_streams=max_concurrent_streams
        )

    async def start(self) -> None:
        """Return when connections are accepted. Raises what kept the server from starting."""
        self._serving = asyncio.create_task(self._server.serve(), name=f"listener-{self.port}")
        await self._server.wait_started()

    async def stop(self, timeout_s: float = 2 * STOP_GRACE_S) -> None:
        """Linger, refuse connections, let open calls end, cancel them after the grace, close.

        Streams end only when something ends them: call ``GrpcRouter.stop`` first. Returns after
        the linger and ``timeout_s`` seconds at the latest; a handler that resists its cancellation
        is then left behind and reported in the log. Idle connections do not hold it up, but one
        that has not sent its first byte does, for HANDSHAKE_TIMEOUT_S or the grace.
        """
        if self._serving is not None:
            await asyncio.sleep(STOP_LINGER_S)
        self._server.shutdown()
        if self._serving is not None:
            await asyncio.sleep(STOP_ACCEPT_S)
        # Closing is not enough: h2corn keeps a duplicate of the listening socket while it drains,
        # and the kernel would let clients in to wait for nobody.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        if self._serving is None:
            return
        await asyncio.wait({self._serving}, timeout=timeout_s)
        if not self._serving.done():
            log.error("port %d did not stop cleanly: calls still running", self.port)
        elif not self._serving.cancelled() and (error := self._serving.exception()):
            log.error("port %d did not stop cleanly: %s", self.port, error)


def _bound_socket(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            ("TCP_KEEPIDLE", KEEPALIVE_IDLE_S),
            ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_S),
            ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        ):
            if hasattr(socket, option):
                bound.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        bound.bind(address)
        bound.listen(BACKLOG)
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        text = f"listen tcp {host}:{port}: bind: {error.strerror}"
        raise AddressInUse(error.errno, text) from error
    return bound


def _config(fd: int, max_concurrent_streams: int, stop_grace_s: float, http1: bool) -> Config:
    return Config(
        bind=(f"fd://{fd}",),
        grpc=True,
        http1=http1,
        access_log=False,
        log_format="json",
        lifespan="off",
        runtime_threads=_HTTP_SERVER_THREADS,
        max_concurrent_streams=max_concurrent_streams,
        limit_request_head_size=MAX_HEADER_BYTES,
        limit_request_fields=MAX_HEADER_FIELDS,
        h2_max_header_list_size=MAX_HEADER_BYTES,
        h2_max_header_block_size=MAX_HEADER_BYTES,
        h2_initial_stream_window_size=STREAM_WINDOW_BYTES,
        h2_initial_connection_window_size=CONNECTION_WINDOW_BYTES,
        max_request_body_size=MAX_HTTP_BODY_BYTES,
        timeout_handshake=HANDSHAKE_TIMEOUT_S,
        timeout_request_header=HEADER_TIMEOUT_S,
        timeout_graceful_shutdown=stop_grace_s,
        # A watch may be silent for hours, and a paused client may not read for as long; dead peers
        # are the kernel's business (keepalive above).
        timeout_keep_alive=0,
        timeout_request_body_idle=0,
        h2_timeout_response_stall=0,
        h2_timeout_write=0,
    )
