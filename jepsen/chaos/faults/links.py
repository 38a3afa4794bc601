"""Links between members that are cut, slow, lossy, flapping or half-open.

All of them are made of what a `kvstore.testing.network.Network` can do to a directed link. The
effect of such a fault is the bytes that it held back (or threw away), or the connections it broke.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from random import Random

from jepsen.chaos.faults.base import Done, Fault
from kvstore.testing import Cluster, Link
from kvstore.testing.network import Ability

DELAY_S = 0.1
JITTER_S = 0.1
LOSS = 0.1
BANDWIDTH = 200_000.0
FLAP_S = (0.05, 0.5)
"""Shortest and longest time that a flapping link stays as it is."""


class LinkFault(Fault):
    """Something on links; its effect is the bytes that they held back."""

    @classmethod
    def available(cls, cluster: Cluster) -> str:
        return "" if cluster.links is not None else "the cluster has no links that can be changed"

    @abstractmethod
    def change(self) -> Done:
        """Change links; `begin` does it."""

    def begin(self) -> Done:
        assert self.cluster.links is not None
        self._before = sum(self.cluster.links.held().values())
        return self.change()

    def end(self, done: Done) -> None:
        assert self.cluster.links is not None
        done.effect = sum(self.cluster.links.held().values()) - self._before
        self.cluster.heal()

    def between(self, one: list[int], other: list[int]) -> list[tuple[int, int]]:
        return [(a, b) for a in one for b in other] + [(b, a) for a in one for b in other]


def cut(link: Link) -> None:
    link.cut = True


def slow(link: Link) -> None:
    link.delay_s, link.jitter_s = DELAY_S, JITTER_S


def cannot_delay(cluster: Cluster) -> str:
    """Why links cannot be made slow, "" if they can."""
    return cluster.links.lacks(Ability.DELAY) if cluster.links is not None else ""


class PartitionHalves(LinkFault):
    """Two groups of members, as near to halves as can be, do not reach each other."""

    name = "partition-halves"

    def change(self) -> Done:
        members = self.cluster.numbers
        self.random.shuffle(members)
        small = members[: len(members) // 2]
        self.cluster.partition(small)
        return Done(self.names(small))


class IsolateLeader(LinkFault):
    """The leader and the others do not reach each other."""

    name = "isolate-leader"

    def change(self) -> Done:
        leader = self.leader()
        self.cluster.partition([leader])
        return Done(self.names([leader]))


class PartitionOneWay(LinkFault):
    """A member hears the others, or is heard, but not both."""

    name = "partition-one-way"

    def change(self) -> Done:
        assert self.cluster.links is not None
        victim = self.random.choice(self.up())
        others = [i for i in self.cluster.numbers if i != victim]
        deaf = self.random.random() < 0.5
        pairs = [(i, victim) if deaf else (victim, i) for i in others]
        self.cluster.links.change(pairs, cut)
        return Done(self.names([victim]), "deaf" if deaf else "mute")


class PartitionRing(LinkFault):
    """Each member reaches only its two neighbours; with three members one link is cut."""

    name = "partition-ring"

    def change(self) -> Done:
        assert self.cluster.links is not None
        order = self.cluster.numbers
        self.random.shuffle(order)
        count = len(order)
        neighbours = {(order[i], order[(i + 1) % count]) for i in range(count)}
        if count == 3:
            neighbours.discard((order[0], order[1]))
        missing = [
            (a, b)
            for a in order
            for b in order
            if a != b and (a, b) not in neighbours and (b, a) not in neighbours
        ]
        self.cluster.links.change(missing, cut)
        return Done(self.names(order))


class PartitionBridge(LinkFault):
    """Two halves that only one member reaches both of."""

    name = "partition-bridge"

    def change(self) -> Done:
        assert self.cluster.links is not None
        order = self.cluster.numbers
        self.random.shuffle(order)
        bridge, rest = order[0], order[1:]
        half = len(rest) // 2
        self.cluster.links.change(self.between(rest[:half], rest[half:]), cut)
        return Done(self.names([bridge]), "the bridge")


class AllLinks(LinkFault):
    """All links between members are changed in one way."""

    def change(self) -> Done:
        assert self.cluster.links is not None
        members = self.cluster.numbers
        pairs = [(a, b) for a in members for b in members if a != b]
        self.cluster.links.change(pairs, self.change_link)
        return Done(self.names(members))

    @abstractmethod
    def change_link(self, link: Link) -> None:
        """Change one."""


class SlowLinks(AllLinks):
    """What members send each other takes a tenth to a fifth of a second longer."""

    name = "slow-links"

    @classmethod
    def available(cls, cluster: Cluster) -> str:
        return super().available(cluster) or cannot_delay(cluster)

    def change_link(self, link: Link) -> None:
        slow(link)


class LossyLinks(AllLinks):
    """Links between members lose a tenth of what is sent, and carry little."""

    name = "lossy-links"

    def change_link(self, link: Link) -> None:
        link.loss, link.bytes_per_s = LOSS, BANDWIDTH


class Resets(LinkFault):
    """All connections of a member break at once."""

    name = "resets"

    def change(self) -> Done:
        assert self.cluster.links is not None
        victim = self.random.choice(self.up())
        self._broken = self.cluster.links.reset(victim)
        return Done(self.names([victim]))

    def end(self, done: Done) -> None:
        super().end(done)
        done.effect = self._broken


class FlappingLinks(LinkFault):
    """All links of a member are cut and mended, several times a second."""

    name = "flapping-links"

    def __init__(self, cluster: Cluster, random: Random) -> None:
        super().__init__(cluster, random)
        self._stop = threading.Event()

    def change(self) -> Done:
        victim = self.random.choice(self.up())
        others = [i for i in self.cluster.numbers if i != victim]
        self._pairs = self.between([victim], others)
        self._count = 0
        self._thread = threading.Thread(target=self._flap, name="flapping", daemon=True)
        self._thread.start()
        return Done(self.names([victim]))

    def _flap(self) -> None:
        assert self.cluster.links is not None
        while not self._stop.is_set():
            self._count += 1
            self.cluster.links.change(self._pairs, cut if self._count % 2 else Link.heal)
            self._stop.wait(self.random.uniform(*FLAP_S))

    def end(self, done: Done) -> None:
        self._stop.set()
        self._thread.join()
        super().end(done)
        done.detail = f"{(self._count + 1) // 2} times"

    def abandon(self) -> None:
        self._stop.set()


class HalfOpen(LinkFault):
    """A member's connections to the others die without a word: only new ones carry anything."""

    name = "half-open"

    def change(self) -> Done:
        assert self.cluster.links is not None
        victim = self.random.choice(self.up())
        count = self.cluster.links.lose(victim)
        return Done(self.names([victim]), f"{count} connections")
