"""Links between members and their clients: cut, slow, reset.

With proxies for links, the cluster then has some in front of its client ports, too; they cost
throughput, so they are there only in a run that has one of these faults.
"""

from __future__ import annotations

from jepsen.chaos.faults.base import Done
from jepsen.chaos.faults.links import LinkFault, cannot_delay, cut, slow
from kvstore.testing import CLIENTS, Cluster


class ClientFault(LinkFault):
    """Something on the links to the clients of one member."""

    @classmethod
    def available(cls, cluster: Cluster) -> str:
        return "" if cluster.to_clients else "the cluster has no links to clients"

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
    """What clients send to a minority of members takes a tenth to a fifth of a second longer."""

    name = "client-slow"

    @classmethod
    def available(cls, cluster: Cluster) -> str:
        return super().available(cluster) or cannot_delay(cluster)

    def change(self) -> Done:
        assert self.cluster.links is not None
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
