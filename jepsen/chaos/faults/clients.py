"""Links between members and their clients: cut, slow, reset.

The cluster then has proxies in front of its client ports, which every client passes; they cost
throughput, so they are there only in a run that has one of these faults.
"""

from __future__ import annotations

from jepsen.chaos.faults.base import Done
from jepsen.chaos.faults.links import DELAY_S, JITTER_S, LinkFault, cut
from kvstore.testing import CLIENTS, Cluster, Link


class ClientFault(LinkFault):
    """Something on the links to the clients of one member."""

    @classmethod
    def available(cls, cluster: Cluster) -> str:
        return "" if cluster.to_clients else "the cluster has no proxies for clients"

    def _to(self, number: int) -> list[tuple[int, int]]:
        return self.between([CLIENTS], [number])


class ClientCut(ClientFault):
    """No client reaches a member, which is well; what is under way stays so."""

    name = "client-cut"

    def change(self) -> Done:
        assert self.cluster.links is not None
        victim = self.random.choice(self.up())
        self.cluster.links.change(self._to(victim), cut)
        return Done(self.names([victim]))


class ClientMute(ClientFault):
    """Clients reach a member, and its answers are lost: all that they do ends unknown."""

    name = "client-mute"

    def change(self) -> Done:
        assert self.cluster.links is not None
        victim = self.random.choice(self.up())
        self.cluster.links.change([(victim, CLIENTS)], cut)
        return Done(self.names([victim]))


class ClientSlow(ClientFault):
    name = "client-slow"

    def change(self) -> Done:
        assert self.cluster.links is not None

        def slow(link: Link) -> None:
            link.delay_s, link.jitter_s = DELAY_S, JITTER_S

        chosen = self.minority()
        self.cluster.links.change([pair for i in chosen for pair in self._to(i)], slow)
        return Done(self.names(chosen))


class ClientReset(ClientFault):
    """All clients of a member lose their connections in the middle of what they do."""

    name = "client-reset"

    def change(self) -> Done:
        assert self.cluster.links is not None
        victim = self.random.choice(self.up())
        self._broken = self.cluster.links.reset(victim, CLIENTS)
        return Done(self.names([victim]))

    def end(self, done: Done) -> None:
        super().end(done)
        done.effect = self._broken
