"""One client port: a bound socket and the HTTP server that serves an ASGI application on it.

The socket is made in `kvstore.sockets`, not by h2corn: for an error that names the address, and
because h2corn sends no HTTP/2 pings of its own, so the kernel's keepalive is what ends the watch
streams of a client whose machine vanished. Nothing here knows what the application does.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Final

from h2corn import Config, Server

from kvstore import sockets
from kvstore.rpc.grpc import AsgiApp

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

_HTTP_SERVER_THREADS: Final = 1
"""The event loop is the bottleneck; a second thread takes its core away (docs/decisions.md)."""

log = logging.getLogger(__name__)


class Listener:
    """Serves ``app`` on a listening socket from :meth:`start` to :meth:`stop`, once.

    Attributes:
        address: ``host:port``, or the path of a unix socket.
        port: the port bound; 0 of a unix socket.
    """

    def __init__(
        self,
        app: AsgiApp,
        bound: socket.socket,
        *,
        max_concurrent_streams: int = MAX_CONCURRENT_STREAMS,
        stop_grace_s: float = STOP_GRACE_S,
        http1: bool = True,
    ) -> None:
        """Take over a socket that listens already.

        Args:
            app: an ASGI application (``GrpcRouter``).
            max_concurrent_streams: per connection, 1 to 2**32 - 1.
            stop_grace_s: how long open calls may go on after ``stop`` before they are cancelled.
            http1: serve HTTP/1.1 too, not HTTP/2 alone.
        """
        self._socket = bound
        self.address = sockets.shown(bound)
        self.port: int = 0 if bound.family == socket.AF_UNIX else bound.getsockname()[1]
        config = _config(bound.fileno(), max_concurrent_streams, stop_grace_s, http1)
        self._server = Server(app, config)
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return when connections are accepted. Raises what kept the server from starting."""
        self._serving = asyncio.create_task(self._server.serve(), name=f"listener-{self.address}")
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
        sockets.close_unix(self._socket)
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        if self._serving is None:
            return
        await asyncio.wait({self._serving}, timeout=timeout_s)
        if not self._serving.done():
            log.error("%s did not stop cleanly: calls still running", self.address)
        elif not self._serving.cancelled() and (error := self._serving.exception()):
            log.error("%s did not stop cleanly: %s", self.address, error)


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
