"""What an adversary of `jepsen.mutants.adversaries` has in its hands: the network, crashes, time.

An adversary is plain code that runs the simulation up to a condition, then interferes. It does
only what the model of faults allows: messages are lost, doubled or late, members crash or pause,
disks are slow. It may look at everything, and asks of members what a client may ask. The checks are
those of every simulated run. The trade-off against faults by chance: an adversary reaches one
pattern of events, in every seed, and no other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final

from jepsen.sim.network import HELD_GAP_S
from jepsen.sim.node import Node
from jepsen.sim.plan import Plan
from jepsen.sim.simulator import Simulation
from kvstore.errors import EtcdError
from kvstore.node.member import Result
from kvstore.node.request import Kind
from kvstore.pb import rpc_pb2
from kvstore.peer.codec import FrameReader, decode_message, encode_message
from raft import Message, Raft, Role

HAZARD: Final = "hazard"
"""What `Checks.counts` counts when a pattern was reached to its end."""
MISSED: Final = "hazard missed"
PATIENCE_S: Final = 12.0
"""Virtual seconds that a condition may take: some elections."""


class Fate(Enum):
    """What becomes of a message."""

    PASSES = 0
    LOST = 1
    LATE = 2
    """It is kept until the adversary delivers it."""
    TWICE = 3
    """It passes, and a copy of it is kept."""


class Missed(Exception):
    """The cluster took another course than this attempt needs."""


Rule = Callable[[Message], Fate]
Adversary = Callable[["Stage"], None]


def _all_pass(message: Message) -> Fate:
    return Fate.PASSES


class Stage:
    """A cluster without clients and chance faults, and one adversary that tries again and again."""

    def __init__(self, simulation: Simulation, plan: Plan) -> None:
        self.simulation = simulation
        self.loop = simulation.loop
        self.checks = simulation.checks
        self.network = simulation.network
        self.nodes = simulation.nodes
        self.random = plan.stream("adversary")
        self.rule: Rule = _all_pass
        self.kept: list[Message] = []
        self._values = 0
        self._send = self.network.send
        self.network.send = self._judge  # type: ignore[method-assign]

    def _judge(self, messages: Sequence[Message]) -> None:
        for message in messages:
            fate = self.rule(message)
            if fate in (Fate.LATE, Fate.TWICE):
                self.kept.append(message)
            if fate in (Fate.PASSES, Fate.TWICE):
                self._send([message])

    def play(self, adversary: Adversary, until_s: float) -> None:
        """Attempt after attempt until `until_s`, or until the cluster finds no peace any more:
        whether that breaks a promise is then said by the end of the run."""
        for node in self.nodes:
            node.start()
        while self.loop.now < until_s and self._calm():
            self.run(0.01, 0.2)
            try:
                adversary(self)
            except Missed:
                self.checks.count(MISSED)
        self._undo()

    def _undo(self) -> None:
        self.rule, self.kept = _all_pass, []
        self.network.heal()
        for node in self.nodes:
            node.disk.stuck_until = 0.0
            node.resume()
            self.start(node)

    def _calm(self) -> bool:
        """Undo everything and wait for a leader whom all follow."""
        self._undo()

        def settled() -> bool:
            return (
                all(node.up and node.published and node.cluster.version for node in self.nodes)
                and any(commits_own(node) for node in self.nodes)
                and not self.checks.converged()
            )

        return self.loop.run_until(self.loop.now + PATIENCE_S, settled)

    def reached(self) -> None:
        """Count that the pattern has happened to its end, and nothing broke by it."""
        self.checks.count(HAZARD)

    # Time.

    def until(self, done: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
        """Go on until something is so. Raises Missed."""
        if not self.loop.run_until(self.loop.now + seconds, done):
            raise Missed

    def run(self, least_s: float, most_s: float) -> None:
        """Go on for a while."""
        self.loop.run_until(self.loop.now + self.random.uniform(least_s, most_s))

    # Who is who.

    def roles(self) -> tuple[Node, Node, Node]:
        """The leader of three, and the others in any order. Raises Missed."""
        leader = next((node for node in self.nodes if commits_own(node)), None)
        if leader is None:
            raise Missed
        a, b = self.random.sample([node for node in self.nodes if node is not leader], 2)
        return leader, a, b

    def leader(self, a: Node, b: Node, after_term: int) -> tuple[Node, Node]:
        """Wait for a leader of a later term; it and the other of the two."""

        def leads(node: Node) -> bool:
            return node.up and node.member.is_leader and raft(node).term > after_term

        self.until(lambda: leads(a) or leads(b))
        return (a, b) if leads(a) else (b, a)

    # What is done to them.

    def isolate(self, node: Node) -> None:
        for other in self.nodes:
            if other is not node:
                self.network.cut(node.id, other.id)
                self.network.cut(other.id, node.id)

    def connect(self, a: Node, b: Node) -> None:
        """Let these two hear each other again."""
        self.network.mend(a.id, b.id)
        self.network.mend(b.id, a.id)

    def crash(self, node: Node) -> None:
        if node.up:
            node.crash()

    def start(self, node: Node) -> None:
        if not node.up and not node.gone:
            node.start()

    def deliver(self, message: Message) -> None:
        """Let a message arrive that was kept; it was on its way before any cut."""
        receiver = self.network.endpoints[message.to]
        frame = encode_message(message)

        def arrive() -> None:
            for _, body in FrameReader().feed(frame):
                receiver.receive(decode_message(body))

        delay = self.random.expovariate(1 / HELD_GAP_S)
        self.loop.after(delay, f"{message.kind.name} {message.term} arrives late", arrive)

    # What clients ask.

    def propose(self, node: Node, kind: Kind, body: bytes) -> list[Result]:
        """Ask for a write; the list gets its answer."""
        answers: list[Result] = []
        try:
            node.member.propose(kind, body, answers.append)
        except EtcdError as error:
            answers.append(error)
        return answers

    def put(self, node: Node, key: bytes = b"key", lease: int = 0) -> list[Result]:
        """Put a value that never was; the checks hear of its acknowledgement."""
        self._values += 1
        value, floor = b"staged %d" % self._values, self.checks.floor
        answers: list[Result] = []

        def done(result: Result) -> None:
            if isinstance(result, bytes):
                revision = rpc_pb2.PutResponse.FromString(result).header.revision
                self.checks.told(revision, floor, wrote=True)
                self.checks.wrote(revision, key, value)
            answers.append(result)

        request = rpc_pb2.PutRequest(key=key, value=value, lease=lease)
        try:
            node.member.propose(Kind.PUT, request.SerializeToString(), done)
        except EtcdError as error:
            answers.append(error)
        return answers

    def acknowledged(self, answers: list[Result]) -> None:
        """Wait for a good answer. Raises Missed."""
        self.until(lambda: bool(answers))
        if not isinstance(answers[0], bytes):
            raise Missed

    def read(self, node: Node) -> None:
        """Ask for a linearizable read, which the checks judge when it is answered."""
        floor = self.checks.floor

        def done(error: EtcdError | None) -> None:
            if error is None:
                self.checks.told(node.store.revision, floor, wrote=False)

        node.member.read_index(done)


def raft(node: Node) -> Raft:
    """The member's Raft."""
    return node.member.raft


def commits_own(node: Node) -> bool:
    """Whether it leads, and has committed an entry of its term."""
    r = raft(node)
    return node.up and r.role is Role.LEADER and r.commit_index >= r.term_start
