"""The real ``etcdctl lock`` and ``etcdctl elect``: they use KV, Lease and Watch, not the services.

Each test uses names of its own on one three-node cluster.
"""

from __future__ import annotations

import contextlib
import signal

from tests.e2e.cluster import Cluster, wait_until
from tests.e2e.etcdctl import EtcdctlStream, error, ok
from tests.e2e.locks import WAIT_SECONDS, Locks, line, wait_for_line

GONE_SECONDS = 60.0


def locking(cluster: Cluster, name: str, *more: str, member: int = 0) -> EtcdctlStream:
    """``etcdctl lock`` through one member, others to fall back on."""
    endpoints = cluster.endpoints[member:] + cluster.endpoints[:member]
    return cluster.etcdctl_stream("lock", name, *more, endpoints=endpoints)


def electing(cluster: Cluster, name: str, *more: str) -> EtcdctlStream:
    return cluster.etcdctl_stream("elect", name, *more)


def first_lines(stream: EtcdctlStream, count: int = 1) -> list[bytes]:
    return [text.encode() for text in stream.read(count, WAIT_SECONDS)]


def ended(stream: EtcdctlStream) -> int:
    return wait_until(stream.process.poll, GONE_SECONDS, "etcdctl has ended") or 0


# -- lock ------------------------------------------------------------------------------------------


def test_lock_prints_its_key_and_unlocks_when_interrupted(cluster: Cluster) -> None:
    """CON-02, OTH-05: the key is the name and the lease in hex; SIGINT and SIGTERM release it."""
    client = cluster.client(0)
    for number in (signal.SIGINT, signal.SIGTERM):
        with locking(cluster, "ctl/print") as held:
            (key,) = first_lines(held)
            (kv,) = line(client, b"ctl/print")
            assert kv.key == key == b"ctl/print/" + f"{kv.lease:x}".encode()
            assert client.time_to_live(kv.lease).grantedTTL == 10
            held.process.send_signal(number)
            ended(held)
        assert line(client, b"ctl/print") == []


def test_lock_runs_a_command_while_it_is_held(cluster: Cluster) -> None:
    """OTH-05: the command knows key and revision; its failure is etcdctl's."""
    script = 'echo "$ETCD_LOCK_KEY $ETCD_LOCK_REV"'
    key, revision = ok(cluster.etcdctl("lock", "ctl/exec", "--", "sh", "-c", script)).split()
    assert key.startswith("ctl/exec/")
    assert int(revision) > 1
    assert cluster.etcdctl("lock", "ctl/exec", "--", "sh", "-c", "exit 7").returncode == 7
    assert line(cluster.client(0), b"ctl/exec") == []


def test_waiters_hold_the_lock_one_after_another(cluster: Cluster) -> None:
    """CON-05: in the order of their revisions, through different members."""
    client = cluster.client(0)
    with contextlib.ExitStack() as stack:
        streams = []
        for number in range(4):
            streams.append(stack.enter_context(locking(cluster, "ctl/order", member=number % 3)))
            wait_for_line(client, b"ctl/order", number + 1)
        keys = [kv.key for kv in line(client, b"ctl/order")]
        for stream, key in zip(streams, keys, strict=True):
            assert first_lines(stream) == [key]
            assert line(client, b"ctl/order")[0].key == key
            stream.process.send_signal(signal.SIGTERM)
            ended(stream)
    assert line(client, b"ctl/order") == []


def test_a_killed_holder_is_followed_by_the_next(cluster: Cluster) -> None:
    """CON-14: nobody unlocks; the lease runs out, and with it the key."""
    client = cluster.client(0)
    with locking(cluster, "ctl/kill", "--ttl=2") as held:
        (key,) = first_lines(held)
        with locking(cluster, "ctl/kill", member=1) as waiting:
            keys = [kv.key for kv in wait_for_line(client, b"ctl/kill", 2)]
            held.process.kill()
            assert first_lines(waiting) == [keys[1]]
            assert client.get(key).count == 0


def test_a_killed_waiter_does_not_hold_up_those_behind(cluster: Cluster) -> None:
    """CON-06, CON-14: its key goes with its lease, while the holder still holds."""
    client = cluster.client(0)
    with (
        locking(cluster, "ctl/middle") as held,
        contextlib.ExitStack() as stack,
    ):
        first_lines(held)
        waiter = stack.enter_context(locking(cluster, "ctl/middle", "--ttl=2", member=1))
        wait_for_line(client, b"ctl/middle", 2)
        last = stack.enter_context(locking(cluster, "ctl/middle", member=2))
        wait_for_line(client, b"ctl/middle", 3)
        waiter.process.kill()
        keys = [kv.key for kv in wait_for_line(client, b"ctl/middle", 2)]
        held.process.send_signal(signal.SIGTERM)
        assert first_lines(last) == [keys[1]]


def test_etcdctl_and_the_service_share_a_line(cluster: Cluster) -> None:
    """CON-01."""
    client, service = cluster.client(0), Locks(cluster.client(1))
    held = service.lock(b"ctl/shared").result()
    with locking(cluster, "ctl/shared") as waiting:
        wait_for_line(client, b"ctl/shared", 2)
        third = service.lock(b"ctl/shared")
        keys = [kv.key for kv in wait_for_line(client, b"ctl/shared", 3)]
        service.unlock(held.key).result()
        assert first_lines(waiting) == [keys[1]]
        assert not third.done()
        waiting.process.send_signal(signal.SIGTERM)
        assert third.result().key == keys[2]


# -- elect -----------------------------------------------------------------------------------------


def test_a_campaign_prints_key_and_value_and_resigns_when_stopped(cluster: Cluster) -> None:
    """CON-09, CON-11, OTH-05."""
    client = cluster.client(0)
    with electing(cluster, "ctl/elect", "me") as leader:
        key, value = first_lines(leader, 2)
        (kv,) = line(client, b"ctl/elect")
        assert (kv.key, kv.value) == (key, value) == (key, b"me")
        assert client.time_to_live(kv.lease).grantedTTL == 60
        leader.process.send_signal(signal.SIGTERM)
        ended(leader)
    assert line(client, b"ctl/elect") == []


def test_candidates_lead_one_after_another_and_listeners_see_each(cluster: Cluster) -> None:
    """CON-09, CON-13, CON-14: also after a leader that was killed, whose lease ends."""
    client = cluster.client(0)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(electing(cluster, "ctl/turns", "--listen"))
        candidates = []
        for number in range(3):
            candidates.append(
                stack.enter_context(electing(cluster, "ctl/turns", f"candidate {number}"))
            )
            wait_for_line(client, b"ctl/turns", number + 1)
        seats = line(client, b"ctl/turns")
        for number, (candidate, seat) in enumerate(zip(candidates, seats, strict=True)):
            expected = [seat.key, b"candidate %d" % number]
            assert first_lines(candidate, 2) == expected
            assert first_lines(listener, 2) == expected
            if number == 1:
                candidate.process.kill()
                client.revoke(seat.lease)  # elect knows no TTL below its 60 s: do not wait for it
            else:
                candidate.process.send_signal(signal.SIGTERM)
            ended(candidate)
    assert line(client, b"ctl/turns") == []


def test_wrong_use_is_refused(cluster: Cluster) -> None:
    """OTH-05."""
    for args in (["lock"], ["elect"], ["elect", "name"], ["elect", "--listen"]):
        assert error(cluster.etcdctl(*args)).startswith("Error: ")
