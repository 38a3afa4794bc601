"""Random schedules: one step of chaos at a time, chosen by a seeded generator.

A schedule goes through moods of some dozen steps: how lossy the network is, who is cut off (often
the leader), whose disk or loop is slow. Evenly spread faults would hardly ever add up to the long
one-sided troubles that break consensus.
"""

from dataclasses import dataclass, field
from random import Random

from raft_cluster import Cluster

from raft import ConfChange, ConfChangeType, Transition


def random_settings(random: Random) -> dict[str, object]:
    """Settings small enough that windows fill up and messages are split."""
    return {
        "pre_vote": random.random() < 0.6,
        "check_quorum": random.random() < 0.5,
        "max_inflight_messages": random.choice([1, 2, 8]),
        "max_message_bytes": random.choice([1, 40, 1 << 20]),
        "max_uncommitted_bytes": random.choice([200, 1 << 20]),
    }


def random_change(random: Random, members: int) -> ConfChange:
    """One to three changes of any members, or the end of a joint configuration."""
    if random.random() < 0.2:
        return ConfChange()
    count = random.choice([1, 1, 1, 2, 3])
    changes = tuple(
        (random.choice([ConfChangeType.ADD_VOTER, *ConfChangeType]), random.randint(1, members))
        for _ in range(count)
    )
    return ConfChange(changes, random.choice(list(Transition)))


@dataclass
class Mood:
    """What some dozen steps of a schedule have in common."""

    loss: float = 0.02
    doubling: float = 0.02
    disorder: float = 0.1
    fault: float = 0.04
    slow_disks: set[int] = field(default_factory=set)
    slow_loops: set[int] = field(default_factory=set)
    reconfigure: float = 0.0


def change_mood(cluster: Cluster, random: Random, *, reconfigure: bool) -> Mood:
    """Draw a mood, and set the partition that goes with it."""
    members = list(cluster.members)
    leader = cluster.leader()
    cut = random.random()
    if cut < 0.45:
        cluster.cut = set()
    elif cut < 0.75 and leader is not None:
        friends = {m for m in members if random.random() < 0.2}
        cluster.partition({leader.id, *friends})
    elif cut < 0.9:
        cluster.partition({m for m in members if random.random() < 0.5})
    for member in members:
        if random.random() < 0.5:
            cluster.restart(member)
    return Mood(
        loss=random.choice([0.0, 0.02, 0.2]),
        doubling=random.choice([0.0, 0.05]),
        disorder=random.choice([0.0, 0.1, 0.6]),
        fault=random.choice([0.0, 0.02, 0.06]),
        slow_disks={m for m in members if random.random() < 0.15},
        slow_loops={m for m in members if random.random() < 0.15},
        reconfigure=random.choice([0.0, 0.02, 0.06]) if reconfigure else 0.0,
    )


def step(cluster: Cluster, random: Random, mood: Mood) -> None:
    """One event somewhere."""
    member = random.choice(list(cluster.members))
    if cluster.network and random.random() < 0.5:
        at = random.randrange(len(cluster.network)) if random.random() < mood.disorder else 0
        fate = random.random()
        if fate < mood.loss:
            cluster.drop(at)
        elif fate < mood.loss + mood.doubling:
            cluster.duplicate(at)
        else:
            cluster.deliver(at)
        return
    choice = random.random()
    if choice < 0.30:
        if member not in mood.slow_loops or random.random() < 0.1:
            cluster.take_ready(member)
    elif choice < 0.60:
        if member not in mood.slow_disks or random.random() < 0.1:
            cluster.finish_write(member, random.randint(1, 3))
    elif choice < 0.74:
        cluster.tick(member)
    elif choice < 0.84:
        cluster.propose(member, random.randint(1, 3))
    elif choice < 0.90:
        cluster.read(member)
    elif choice < 0.92:
        cluster.flush(member)
        cluster.compact(member, random.randint(0, 3))
    elif choice < 0.92 + mood.fault:
        _fault(cluster, random, member)
    elif random.random() < mood.reconfigure * 10:
        leader = cluster.leader()
        asked = leader.id if leader is not None and random.random() < 0.8 else member
        cluster.change_conf(asked, random_change(random, len(cluster.members)))


def _fault(cluster: Cluster, random: Random, member: int) -> None:
    kind = random.randrange(6)
    if kind < 2:
        writing = len(cluster.members[member].writing)
        cluster.crash(member, random.randint(0, writing))
    elif kind < 4:
        cluster.restart(member)
    elif kind == 4:
        cluster.transfer(member, random.choice(list(cluster.members)))
    else:
        cluster.campaign(member)


def run_schedule(seed: int, steps: int) -> Cluster:
    """A whole schedule: chaos for `steps` steps, then the cluster must make progress."""
    random = Random(seed)
    voters = random.choice([1, 2, 3, 3, 3, 4, 5])
    spares = random.choice([0, 0, 1, 2])
    cluster = Cluster(voters, spares, seed=seed, **random_settings(random))
    reconfigure = spares > 0 or random.random() < 0.5
    mood = Mood()
    for number in range(steps):
        if number % 80 == 0:
            mood = change_mood(cluster, random, reconfigure=reconfigure)
        step(cluster, random, mood)
        while len(cluster.network) > 200:
            cluster.drop(0)
    cluster.assert_progress()
    return cluster
