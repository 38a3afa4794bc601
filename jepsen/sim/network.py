"""The network between members: it delays, reorders, drops, doubles, holds back; it can be cut.

Messages cross it as bytes, through the peer transport's codec, so no two members share an object.
A PROPOSE is never doubled: proposals are not idempotent, and the transport sends each frame once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from jepsen.sim.loop import Loop
from kvstore.errors import EtcdError
from kvstore.peer.codec import FrameReader, decode_message, encode_message
from kvstore.peer.handshake import Standing
from kvstore.storage.memory_backend import MemoryBackend
from raft import Message, MessageKind

HELD_GAP_S = 0.0005
"""Mean gap between messages that were held back, when they flow again."""
NAMES = {kind: kind.name for kind in MessageKind}
"""An enumeration's own look-up of a name takes six times as long."""
Answered = Callable[[bytes | EtcdError | None], None]
"""Gets the answer to a call; None when the connection was lost."""


class Endpoint(Protocol):
    """A member as the network sees it."""

    name: str

    def receive(self, message: Message) -> None: ...
    def receive_snapshot(
        self, message: Message, content: MemoryBackend, report: Callable[[bool], None]
    ) -> None: ...
    def receive_call(self, method: int, payload: bytes, answer: Answered) -> None: ...
    def unreachable(self, peer: int) -> None: ...
    def standing(self, peer: int) -> Standing | None: ...
    def told_removed(self, by: int) -> None: ...


class Network:
    """All links, each in one direction."""

    def __init__(self, loop: Loop) -> None:
        self.endpoints: dict[int, Endpoint] = {}
        self.drop = 0.0
        """Chance of a message to be lost."""
        self.double = 0.0
        """Chance of a message to arrive twice."""
        self.late = 0.0
        """Chance of a message to arrive much later than its successors."""
        self.delay_s = 0.002
        """Mean delay."""
        self._loop = loop
        self._reader = FrameReader()
        self._cut: set[tuple[int, int]] = set()
        self._held: dict[tuple[int, int], list[Callable[[], None]]] = {}
        """Links that hold messages back -> those that should have arrived."""

    def cut(self, from_: int, to: int) -> None:
        """Cut one direction."""
        self._cut.add((from_, to))

    def mend(self, from_: int, to: int) -> None:
        """Undo `cut`."""
        self._cut.discard((from_, to))

    def hold(self, from_: int, to: int, seconds: float) -> None:
        """Hold back what one member sends to another; then deliver it in order."""
        link = (from_, to)
        if link not in self._held:
            self._held[link] = []
            label = f"{self.endpoints[from_].name}>{self.endpoints[to].name} flows"
            self._loop.after(seconds, label, lambda: self.release(link))

    def release(self, link: tuple[int, int]) -> None:
        """Deliver what was held back; without a hold this does nothing."""
        delay = 0.0
        for arrive in self._held.pop(link, ()):
            delay += self._loop.random.expovariate(1 / HELD_GAP_S)
            self._loop.after(delay, "a message held back", arrive)

    def heal(self) -> None:
        """Mend every cut, hold nothing back and lose nothing more."""
        for link in list(self._held):
            self.release(link)
        self._cut.clear()
        self.drop = self.double = self.late = 0.0
        self.delay_s = 0.002

    def is_cut(self, from_: int, to: int) -> bool:
        """Whether nothing gets through; also so to a member that has been added but not made."""
        return (from_, to) in self._cut or to not in self.endpoints

    def dial(self, from_: int, to: int) -> Standing | None:
        """What the other end of a connection takes the dialing one for; None without one."""
        if self.is_cut(from_, to) or self.is_cut(to, from_):
            return None
        return self.endpoints[to].standing(from_)

    def _refused(self, from_: int, to: int) -> bool:
        """Whether the receiver refuses the sender, which hears so if it was removed."""
        standing = self.endpoints[to].standing(from_)
        if standing is Standing.BARRED:
            return True
        if standing is not Standing.REMOVED:
            return False
        sender = self.endpoints[from_]
        label = f"{sender.name} refused"
        self._loop.after(self.delay_s, label, lambda: sender.told_removed(to))
        return True

    def send(self, messages: Sequence[Message]) -> None:
        """Send in order; what is lost is sometimes reported, as a broken connection would be."""
        for message in messages:
            frame = encode_message(message)
            for _ in range(self._copies(message)):
                self._send_frame(message, frame)

    def _copies(self, message: Message) -> int:
        random = self._loop.random
        if self.is_cut(message.from_, message.to):
            if random.random() < 0.3:
                self.endpoints[message.from_].unreachable(message.to)
            return 0
        if random.random() < self.drop:
            return 0
        doubled = message.kind != MessageKind.PROPOSE and random.random() < self.double
        return 2 if doubled else 1

    def _send_frame(self, message: Message, frame: bytes) -> None:
        random = self._loop.random
        from_, to = message.from_, message.to
        delay = random.expovariate(1 / self.delay_s)
        if random.random() < self.late:
            delay += random.uniform(0.02, 1.0)
        receiver = self.endpoints[to]

        def arrive() -> None:
            if (from_, to) in self._held:
                self._held[from_, to].append(arrive)
            elif not self.is_cut(from_, to) and not self._refused(from_, to):
                for _, body in self._reader.feed(frame):  # a whole frame: none is left over
                    receiver.receive(decode_message(body))

        label = (
            f"{self.endpoints[from_].name}>{receiver.name} {NAMES[message.kind]} {message.term}"
            f" {message.index} {message.commit} {len(message.entries)} {message.reject:d}"
        )
        self._loop.after(delay, label, arrive)

    def call(self, from_: int, to: int, method: int, payload: bytes, answered: Answered) -> None:
        """Ask a member; what is lost on the way there or back is answered None, or not at all."""
        random = self._loop.random
        sender = self.endpoints[from_]

        def lost() -> None:
            if random.random() < 0.5:
                self._loop.after(self.delay_s, f"{sender.name} lost a call", lambda: answered(None))

        def passes(a: int, b: int) -> bool:
            return not self.is_cut(a, b) and random.random() >= self.drop

        def arrive() -> None:
            if not passes(from_, to) or self._refused(from_, to):
                lost()
                return
            self.endpoints[to].receive_call(method, payload, answer)

        def answer(result: bytes | EtcdError | None) -> None:
            if not passes(to, from_):
                lost()
                return
            delay = random.expovariate(1 / self.delay_s)
            self._loop.after(delay, f"{sender.name} is answered", lambda: answered(result))

        if to in self.endpoints:
            delay = random.expovariate(1 / self.delay_s)
            self._loop.after(delay, f"{sender.name} calls {method}", arrive)
        else:
            lost()

    def send_snapshot(
        self, message: Message, content: MemoryBackend, report: Callable[[bool], None]
    ) -> None:
        """Send a snapshot on a connection of its own and report how that went."""
        random = self._loop.random
        from_, to = message.from_, message.to
        if to not in self.endpoints:
            self._loop.after(self.delay_s, f"no {to:x} to send a snapshot", lambda: report(False))
            return
        receiver = self.endpoints[to]
        frame = encode_message(message)

        def arrive() -> None:
            if self.is_cut(from_, to) or random.random() < self.drop or self._refused(from_, to):
                answer(False)
                return
            for _, body in FrameReader().feed(frame):
                receiver.receive_snapshot(decode_message(body), content, answer)

        def answer(arrived: bool) -> None:
            # It may be lost after the snapshot has arrived.
            ok = arrived and not self.is_cut(to, from_) and random.random() >= self.drop
            self._loop.after(self.delay_s, f"{receiver.name} snapshot {ok}", lambda: report(ok))

        name = f"{self.endpoints[from_].name}>{receiver.name}"
        index = message.snapshot.index if message.snapshot is not None else 0
        self._loop.after(
            random.expovariate(1 / (20 * self.delay_s)), f"{name} SNAPSHOT {index}", arrive
        )
