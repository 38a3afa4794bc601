"""Random schedules: one step of chaos at a time, chosen by a seeded generator."""

from random import Random

from raft import ConfChange, ConfChangeType, Transition
from raft_cluster import Cluster


def random_settings(random: Random) -> dict[str, object]:
    """Settings small enough that windows fill up and messages are split."""
    return {
        "pre_vote": random.random() < 0.7,
        "check_quorum": random.random() < 0.7,
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
        (random.choice(list(ConfChangeType)), random.randint(1, members)) for _ in range(count)
    )
    return ConfChange(changes, random.choice(list(Transition)))


def step(cluster: Cluster, random: Random, *, reconfigure: bool) -> None:
    """One event somewhere."""
    member = random.choice(list(cluster.members))
    if cluster.network and random.random() < 0.55:
        at = 0 if random.random() < 0.6 else random.randrange(len(cluster.network))
        fate = random.random()
        if fate < 0.06:
            cluster.drop(at)
        elif fate < 0.10:
            cluster.duplicate(at)
        else:
            cluster.deliver(at)
        return
    choice = random.random()
    if choice < 0.30:
        cluster.take_ready(member)
    elif choice < 0.55:
        cluster.finish_write(member, random.randint(1, 3))
    elif choice < 0.72:
        cluster.tick(member)
    elif choice < 0.84:
        cluster.propose(member, random.randint(1, 3))
    elif choice < 0.89:
        cluster.read(member)
    elif choice < 0.91:
        cluster.flush(member)
        cluster.compact(member, random.randint(0, 3))
    else:
        _fault(cluster, random, member, reconfigure=reconfigure)


def _fault(cluster: Cluster, random: Random, member: int, *, reconfigure: bool) -> None:
    kind = random.randrange(12)
    if kind < 2:
        writing = len(cluster.members[member].writing)
        cluster.crash(member, random.randint(0, writing))
    elif kind < 6:
        cluster.restart(member)
    elif kind == 6:
        side = {m for m in cluster.members if random.random() < 0.4}
        cluster.partition(side)
    elif kind == 7:
        cluster.cut = set()
    elif kind == 8:
        cluster.transfer(member, random.choice(list(cluster.members)))
    elif kind == 9:
        cluster.campaign(member)
    elif reconfigure:
        cluster.change_conf(member, random_change(random, len(cluster.members)))


def run_schedule(seed: int, steps: int) -> Cluster:
    """A whole schedule: chaos for `steps` steps, then the cluster must make progress."""
    random = Random(seed)
    voters = random.choice([1, 2, 3, 3, 3, 4, 5])
    spares = random.choice([0, 0, 1, 2])
    cluster = Cluster(voters, spares, seed=seed, **random_settings(random))
    reconfigure = spares > 0 or random.random() < 0.5
    for _ in range(steps):
        step(cluster, random, reconfigure=reconfigure)
        while len(cluster.network) > 300:
            cluster.drop(0)
    cluster.assert_progress()
    return cluster
