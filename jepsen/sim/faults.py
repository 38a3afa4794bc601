"""Faults that come and go: what is done to the cluster, and how it is all undone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from jepsen.sim.checks import Checks
from jepsen.sim.loop import Loop
from jepsen.sim.network import Network
from jepsen.sim.node import Node
from jepsen.sim.plan import Plan
from jepsen.sim.rpc import OK, Status, unary
from kvstore.pb import rpc_pb2

KINDS = (
    "crash", "crash_all", "partition", "one_way", "isolate_leader", "transfer", "pause",
    "slow_disk", "bad_network", "ambush", "partial", "disk_fails", "defragment", "hold", "unseat",
    "stuck_disk", "relic",
)  # fmt: skip
"""All kinds of faults but `heal`, which ends what the network suffers."""


RELIC_S = 6.0
"""Most time for which the messages of a leader are held back for its successor to come."""


class Faults:
    """Draws a fault every `mean_pause_s` or so; most end by themselves after a while."""

    def __init__(
        self, plan: Plan, loop: Loop, network: Network, nodes: Sequence[Node], checks: Checks
    ) -> None:
        self.struck = 0
        """How many faults have been drawn."""
        self._plan = plan
        # When and of which kind is drawn apart from what a fault draws for itself, which depends
        # on how the cluster is: leaving one out leaves the others where they are.
        self._schedule = self._random = random = plan.stream("faults")
        self._loop = loop
        self._network = network
        self._nodes = nodes
        self._checks = checks
        self._mean_pause_s = random.choice((0.5, 1.0, 3.0))
        self._stopped = False
        # Not every run sees every kind: some bugs need many faults of few kinds.
        self._weights = [random.choice((0, 1, 3)) for _ in KINDS]

    def start(self) -> None:
        self._later()

    def stop(self) -> None:
        """Undo every fault and bring no more."""
        self._stopped = True
        self._checks.on_leader = _nobody
        self._network.heal()
        for node in self._nodes:
            node.disk.write_s = node.commit_s = 0.002
            node.disk.failing = ""
            node.disk.stuck_until = 0.0
            node.resume()
            _start(node)

    def _later(self) -> None:
        pause = self._schedule.expovariate(1 / self._mean_pause_s)
        self._loop.after(pause, "fault", self._strike)

    def _strike(self) -> None:
        if self._stopped:
            return
        self._later()
        [kind] = self._schedule.choices((*KINDS, "heal"), (*self._weights, 3))
        self.struck += 1
        if kind in self._plan.without or self.struck in self._plan.skip:
            return
        self._checks.count(kind)
        self._loop.trace(f"fault {self.struck} {kind}")
        self._random = self._plan.stream(f"fault {self.struck}")
        strike: Callable[[], None] = getattr(self, f"_{kind}")
        strike()

    def _pick(self) -> Node:
        """A member, the leader more often than others."""
        leaders = [node for node in self._nodes if node.up and node.member.is_leader]
        if leaders and self._random.random() < 0.3:
            return leaders[0]
        return self._random.choice(self._nodes)

    def _crash(self) -> None:
        self._crash_node(self._pick(), self._random.expovariate(1 / 1.5))

    def _crash_node(self, node: Node, down_s: float) -> None:
        if not node.up or self._stopped:
            return
        node.crash()
        self._loop.after(down_s, f"{node.name} starts", lambda: _start(node))

    def _crash_all(self) -> None:
        """A power cut."""
        for node in self._nodes:
            self._crash_node(node, self._random.uniform(0.1, 1.0))

    def _ambush(self) -> None:
        """A crash around the time at which a snapshot is installed: with its record on the way to
        the log, durable while the backend is still the old one, or with the new one in use; or a
        crash after the log was shortened."""
        random, loop = self._random, self._loop
        at_snapshot = random.random() < 0.7
        for node in self._nodes:

            def strike(node: Node = node) -> None:
                life = node.process.life
                delay = random.choice(
                    (0.0, random.expovariate(1 / node.disk.write_s), random.uniform(0.0, 0.3))
                )

                def crash() -> None:
                    if node.process.life == life:
                        what = "at a snapshot" if at_snapshot else "after the log was shortened"
                        self._checks.count(f"crash {what}")
                        self._crash_node(node, random.expovariate(1 / 0.5))

                loop.after(delay, f"{node.name} ambushed", crash)

            if at_snapshot:
                node.on_snapshot_logged = strike
            else:
                node.on_log_released = strike

    def _partition(self) -> None:
        """Two groups that do not hear of each other."""
        group = {node.id for node in self._nodes if self._random.random() < 0.5}
        for a in self._nodes:
            for b in self._nodes:
                if (a.id in group) != (b.id in group):
                    self._network.cut(a.id, b.id)

    def _one_way(self) -> None:
        """What one member sends to some others is lost, and not the other way."""
        node = self._pick()
        for other in self._nodes:
            if other is not node and self._random.random() < 0.7:
                self._network.cut(node.id, other.id)

    def _partial(self) -> None:
        """Some pairs do not hear of each other, though others reach both."""
        for number, a in enumerate(self._nodes):
            for b in self._nodes[number + 1 :]:
                if self._random.random() < 0.4:
                    self._network.cut(a.id, b.id)
                    self._network.cut(b.id, a.id)

    def _disk_fails(self) -> None:
        """The next write of the log fails: the member ends, and starts again when it is mended."""
        node = self._pick()
        if not node.up or node.disk.failing:
            return
        node.disk.failing = self._random.choice(("fsync failed", "no space left on device"))
        down_s = self._random.expovariate(1 / 1.5)

        def mend() -> None:
            node.disk.failing = ""
            _start(node)

        node.on_death = lambda: self._loop.after(down_s, f"{node.name} is mended", mend)

    def _defragment(self) -> None:
        """Asked of one member, as an operator does."""
        node = self._pick()
        if node.serves:
            request = rpc_pb2.DefragmentRequest()
            count = self._checks.count

            def done(status: Status, response: bytes) -> None:
                count("defragmented" if status == OK else f"defragmentation: {status.message}")

            path = "/etcdserverpb.Maintenance/Defragment"
            unary(self._loop, node, path, "operator", request.SerializeToString(), done)

    def _isolate_leader(self) -> None:
        for node in self._nodes:
            if node.up and node.member.is_leader:
                for other in self._nodes:
                    if other is not node:
                        self._network.cut(node.id, other.id)
                        self._network.cut(other.id, node.id)

    def _heal(self) -> None:
        self._network.heal()

    def _transfer(self) -> None:
        """Asked of the leader or of another, which refuses."""
        asked, target = self._pick(), self._pick()
        leaders = [node for node in self._nodes if node.serves and node.member.is_leader]
        if leaders and self._random.random() < 0.7:
            asked = leaders[-1]
        if asked.serves:
            request = rpc_pb2.MoveLeaderRequest(targetID=target.id)
            count = self._checks.count

            def done(status: Status, response: bytes) -> None:
                count("leadership moved" if status == OK else f"transfer: {status.message}")

            path = "/etcdserverpb.Maintenance/MoveLeader"
            unary(self._loop, asked, path, "operator", request.SerializeToString(), done)

    def _pause(self) -> None:
        node = self._pick()
        if node.up and not node.process.paused_until:
            seconds = self._random.expovariate(1 / self._random.choice((1.0, 1.0, 3.0)))
            node.pause(seconds)
            life = node.process.life

            def resume() -> None:
                if node.process.life == life:
                    node.resume()

            self._loop.after(seconds, f"{node.name} resumes", resume)

    def _slow_disk(self) -> None:
        node = self._pick()
        node.disk.write_s = self._random.choice((0.002, 0.05, 0.5))
        node.commit_s = self._random.choice((0.002, 0.05, 0.5))

    def _stuck_disk(self) -> None:
        """No write of the log gets done for a while, which may outlast a leadership."""
        self._pick().disk.stuck_until = self._loop.now + self._random.uniform(0.5, 4.0)

    def _hold(self) -> None:
        """What one member sends, or is sent, arrives late, often in a later term."""
        random, node = self._random, self._pick()
        seconds = random.choice((0.3, 1.0, 3.0))
        outwards, inwards = random.choice(((1.0, 0.0), (0.0, 1.0), (0.7, 0.7)))
        for other in self._nodes:
            if other is not node:
                if random.random() < outwards:
                    self._network.hold(node.id, other.id, seconds * random.uniform(0.5, 1.5))
                if random.random() < inwards:
                    self._network.hold(other.id, node.id, seconds * random.uniform(0.5, 1.5))

    def _unseat(self) -> None:
        """The next leaders lose the others, or crash, with their first entries on their way."""
        random, left = self._random, self._random.randint(1, 4)
        within_s = random.choice((0.005, 0.05))

        def elected(node: Node) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                self._checks.on_leader = _nobody
            life, crashes = node.process.life, random.random() < 0.5
            seconds = random.uniform(0.1, 1.0) if crashes else random.uniform(1.0, 4.0)

            def strike() -> None:
                if node.process.life != life or self._stopped:
                    return
                self._checks.count("leader unseated")
                if crashes:
                    self._crash_node(node, seconds)
                else:
                    self._isolate(node, seconds)

            delay = random.expovariate(1 / within_s)
            self._loop.after(delay, f"{node.name} unseated", strike)

        self._checks.on_leader = elected

    def _relic(self) -> None:
        """What a leader sends arrives only after its successor has fallen, before the next one."""
        random, loop, network = self._random, self._loop, self._network
        leaders = [node for node in self._nodes if node.up and node.member.is_leader]
        if not leaders:
            return
        old = leaders[-1]
        links = [(old.id, other.id) for other in self._nodes if other is not old]
        for link in links:
            network.hold(*link, RELIC_S)

        def elected(node: Node) -> None:
            if node is old:
                return
            self._checks.on_leader = _nobody
            life, away_s = node.process.life, random.uniform(1.0, 4.0)

            def strike() -> None:
                if not self._stopped and node.process.life == life:
                    self._checks.count("successor fell")
                    if random.random() < 0.5:
                        self._crash_node(node, away_s)
                    else:
                        self._isolate(node, away_s)
                for link in links:
                    label = "what the predecessor had sent flows"
                    loop.after(random.uniform(0.0, 1.0), label, partial(network.release, link))

            loop.after(random.expovariate(1 / 0.02), f"{node.name} is to fall", strike)

        self._checks.on_leader = elected

    def _isolate(self, node: Node, seconds: float) -> None:
        pairs = [(node.id, other.id) for other in self._nodes if other is not node]
        pairs += [(to, from_) for from_, to in pairs]
        for pair in pairs:
            self._network.cut(*pair)

        def mend() -> None:
            for pair in pairs:
                self._network.mend(*pair)

        self._loop.after(seconds, f"{node.name} is heard again", mend)

    def _bad_network(self) -> None:
        random, network = self._random, self._network
        network.drop = random.choice((0.0, 0.02, 0.2))
        network.double = random.choice((0.0, 0.1))
        network.late = random.choice((0.0, 0.05, 0.3))
        network.delay_s = random.choice((0.0005, 0.005, 0.05))


def _nobody(node: Node) -> None:
    pass


def _start(node: Node) -> None:
    if not node.up and not node.gone:
        node.start()
