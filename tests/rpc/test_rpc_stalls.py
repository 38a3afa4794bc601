"""Which stream is given up when a connection is held up, look by look."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from kvstore.rpc.stalls import BLOCKED_LOOKS, HELD_BYTES, LATE_LOOKS, Sender, Stalls


@dataclass(eq=False)
class Call:
    """A stream, or with nothing given to it a unary call."""

    peer: str = "client"
    burst: int = 0
    given: int = 0


class World:
    """Stalls over some streams; `given_up` collects those that it ends."""

    def __init__(self, *streams: Call) -> None:
        self.streams = dict(enumerate(streams))
        self.given_up: list[Sender] = []
        self.stalls = Stalls(self.streams, self.given_up.append)

    def block(self, *calls: Call) -> None:
        for call in calls:
            self.stalls.sending[call] = self.stalls.look

    def looks(self, count: int) -> None:
        for _ in range(count):
            self.stalls.check()


def on_a_loop(story: Callable[[], None]) -> None:
    async def run() -> None:
        story()

    asyncio.run(run())


def test_the_stream_that_was_given_much_at_once_is_given_up() -> None:
    """WCH-47: not the one that is merely in its way, and not before it is blocked for a while."""

    def story() -> None:
        hog, other, unary = Call(burst=HELD_BYTES), Call(burst=100, given=10 * HELD_BYTES), Call()
        world = World(hog, other)
        world.block(unary, other, hog)
        world.looks(BLOCKED_LOOKS - 1)
        assert world.given_up == []
        world.looks(1)
        assert world.given_up == [hog]

    on_a_loop(story)


def test_a_stream_that_was_given_much_in_its_life_is_given_up_late() -> None:
    """WCH-47: for it may be innocent of what holds the connection up; one for each while."""

    def story() -> None:
        old, older = Call(given=HELD_BYTES), Call(given=2 * HELD_BYTES)
        world = World(old, older)
        world.block(Call(), old, older)
        world.looks(LATE_LOOKS - 1)
        assert world.given_up == []
        world.looks(1)
        assert world.given_up == [older]

    on_a_loop(story)


def test_streams_that_were_given_little_are_left_alone() -> None:
    """GEN-20: a client with thousands of streams may stand still as long as it likes."""

    def story() -> None:
        streams = [Call(burst=1000) for _ in range(100)]
        world = World(*streams)
        world.block(*streams)
        world.looks(3 * LATE_LOOKS)
        assert world.given_up == []

    on_a_loop(story)


def test_a_stream_that_is_blocked_alone_is_left_alone() -> None:
    """WCH-47: calls of other connections do not count."""

    def story() -> None:
        hog, stranger = Call(burst=10 * HELD_BYTES), Call(peer="another", burst=10 * HELD_BYTES)
        world = World(hog, stranger)
        world.block(hog, stranger)
        world.looks(3 * LATE_LOOKS)
        assert world.given_up == []

    on_a_loop(story)


def test_a_stream_that_is_read_slowly_is_left_alone() -> None:
    """WCH-47: a piece in each look is enough."""

    def story() -> None:
        slow, unary = Call(burst=10 * HELD_BYTES), Call()
        world = World(slow)
        for _ in range(3 * LATE_LOOKS):
            world.block(slow, unary)
            world.looks(1)
        assert world.given_up == []

    on_a_loop(story)


def test_what_was_given_before_a_pause_is_no_burst() -> None:
    def story() -> None:
        stream = Call(burst=HELD_BYTES - 1)
        world = World(stream)
        world.looks(1)
        stream.burst += 1
        world.block(stream, Call())
        world.looks(BLOCKED_LOOKS)
        assert world.given_up == []
        assert stream.given == HELD_BYTES - 1

    on_a_loop(story)
