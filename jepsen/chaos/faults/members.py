"""Members that are added, removed and replaced while clients write."""

from __future__ import annotations

import contextlib

from jepsen.chaos.faults.base import Done, Fault, fewer_than_three
from kvstore.testing import Cluster


class AddMember(Fault):
    """A learner joins and is promoted; later it is removed again, which ends it."""

    name = "add-member"
    ends_members = True

    def begin(self) -> Done:
        self._added = self.cluster.add_member(learner=True)
        try:
            self.cluster.promote_member(self._added)
        except Exception:
            with contextlib.suppress(Exception):  # what ended the promotion is what is told
                self.cluster.remove_member(self._added)
            raise
        done = self.hits(self._added)  # from now on: it has no reason to end before
        done.effect = 1
        return done

    def end(self, done: Done) -> None:
        self.cluster.remove_member(self._added)
        done.effect += 1


class RemoveMember(Fault):
    """A member, half of the time the leader, is removed; later one comes in its place."""

    name = "remove-member"
    ends_members = True

    @classmethod
    def available(cls, cluster: Cluster) -> str:
        return fewer_than_three(cluster)

    def begin(self) -> Done:
        leads = self.random.random() < 0.5
        self._victim = self.leader() if leads else self.random.choice(self.up())
        done = self.hits(self._victim)
        self.cluster.remove_member(self._victim)
        done.effect = 1
        return done

    def end(self, done: Done) -> None:
        self.cluster.replace_member(self._victim)
        done.effect += 1


class ReplaceMember(Fault):
    """A member loses its disk; it is removed and added again, first as a learner now and then."""

    name = "replace-member"
    ends_members = True

    @classmethod
    def available(cls, cluster: Cluster) -> str:
        return fewer_than_three(cluster)

    def begin(self) -> Done:
        self._victim = self.random.choice(self.up())
        done = self.hits(self._victim)
        self.cluster.kill(self._victim)
        done.effect = 1
        return done

    def end(self, done: Done) -> None:
        learner = self.random.random() < 0.5
        self.cluster.replace_member(self._victim, learner=learner)
        if learner:
            self.cluster.promote_member(self._victim)
        done.detail = "first a learner" if learner else "a voter at once"
        done.effect += 1
