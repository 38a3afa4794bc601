"""Finds the stream that holds up its connection because its client does not read it.

h2corn keeps at most 2 MiB of response bodies for one connection and lets every further send of that
connection wait, of whichever stream. A stream whose client does not read comes to hold all of it;
then no other call of the connection is answered, while etcd's server, with windows for each stream,
goes on. So where several calls of a connection have been unable to send, the stream that was given
most is given up: resetting it frees what it holds.

Nobody tells how much of what a stream was given its client has taken, and a connection that stands
still as a whole looks alike. The trade-off: a stream is given up early only if it was given much in
one go, late if it was given much in its life, and never if it was given little; one that is alone
may be blocked for ever. Clients take up a watch where it was.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

PERIOD_S: Final = 0.5
"""Time between two looks."""

BLOCKED_LOOKS: Final = 2
"""Who has not sent a piece for so many looks is blocked."""

LATE_LOOKS: Final = 20
"""After so many looks, and again after so many more, a stream is given up for its past."""

PIECE_BYTES: Final = 65_536
"""Large bodies are sent in pieces of this size, so that who reads slowly is told from who does not
read: one takes at least a piece in BLOCKED_LOOKS."""

HELD_BYTES: Final = 1 << 20
"""Least that a stream was given before it can be what holds a connection up."""


class Sender(Protocol):
    """A call, as far as its connection is concerned.

    Attributes:
        burst: bytes that a stream was given since it was last found not to be sending.
        given: bytes that a stream was given before.
    """

    burst: int
    given: int

    @property
    def peer(self) -> str:
        """The client's address: the same for all calls of a connection."""


class Stalls:
    """Which calls are about to send, and since which look.

    Attributes:
        sending: call → the look at which its current send began. Whoever sends puts it in and takes
            it out by itself, as it is done for each answer.
        look: the number of the current look.
    """

    def __init__(self, streams: Mapping[Any, Sender], give_up: Callable[[Sender], None]) -> None:
        """Look while there are ``streams``; ``give_up`` ends one of them."""
        self.sending: dict[Sender, int] = {}
        self.look = 0
        self._streams = streams
        self._give_up = give_up
        self._timer: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """A stream begins."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PERIOD_S, self.check)

    def check(self) -> None:
        """Look once, and again later."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.look += 1
        for call in self._streams.values():
            if call.burst and call not in self.sending:
                call.given += call.burst
                call.burst = 0
        blocked: dict[str, list[Sender]] = defaultdict(list)
        for call, since in self.sending.items():
            if self.look - since >= BLOCKED_LOOKS:
                blocked[call.peer].append(call)
        for calls in blocked.values():
            if len(calls) > 1:
                self._relieve(calls)
        if self._streams:
            self.watch()

    def _relieve(self, calls: list[Sender]) -> None:
        culprit = max(calls, key=lambda call: call.burst)
        if culprit.burst < HELD_BYTES:
            if (self.look - min(self.sending[call] for call in calls)) % LATE_LOOKS:
                return
            culprit = max(calls, key=lambda call: call.burst + call.given)
            if culprit.burst + culprit.given < HELD_BYTES:
                return
        self._give_up(culprit)
