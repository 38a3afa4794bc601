"""Measures round trips to a peer on the connection that also carries Raft's messages.

etcd probes with requests of their own; here the probe waits in the same queue as a heartbeat does,
so it shows what heartbeats suffer. The answer comes from the peer's event loop and includes what
that was busy with.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

PROBE_INTERVAL_S: Final = 1.0
PROBE_TIMEOUT_S: Final = 5.0
"""A member that does not answer a probe for so long is taken for gone, whatever its kernel says."""


async def measure_round_trips(
    ping: Callable[[float], Awaitable[object]], observe: Callable[[float], None]
) -> None:
    """Probe until cancelled, or until the connection is lost; raises TimeoutError for no answer.

    Args:
        ping: returns when the peer has answered; takes a time-out, raises TimeoutError after it
            and ConnectionError when the connection is lost.
        observe: told each round trip, seconds.
    """
    loop = asyncio.get_running_loop()
    while True:
        sent_at = loop.time()
        try:
            await ping(PROBE_TIMEOUT_S)
        except ConnectionError:
            return
        observe(loop.time() - sent_at)
        await asyncio.sleep(PROBE_INTERVAL_S)
