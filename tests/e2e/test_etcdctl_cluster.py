"""Watches, leases, compaction and the cluster's state with the real etcdctl 3.5.1.

Each test uses keys under its own name. A compaction ends the past of all keys, so every watch and
read of the past stays within its own test.
"""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor

from tests.e2e.cluster import Cluster
from tests.e2e.etcdctl import error, ok

COMPACTED = "Error: etcdserver: mvcc: required revision has been compacted"
FUTURE = "Error: etcdserver: mvcc: required revision is a future revision"


# -- watch -----------------------------------------------------------------------------------------


def test_watch_from_a_past_revision_goes_on_live(cluster: Cluster) -> None:
    ok(cluster.etcdctl("put", "w/past", "one"))
    start = cluster.revision("w/past")
    ok(cluster.etcdctl("put", "w/past", "two"))
    ok(cluster.etcdctl("del", "w/past"))

    with cluster.etcdctl_stream("watch", "w/past", f"--rev={start}") as watch:
        assert watch.read(9) == [
            *("PUT", "w/past", "one"),
            *("PUT", "w/past", "two"),
            *("DELETE", "w/past", ""),
        ]
        ok(cluster.etcdctl("put", "w/past", "three"))
        assert watch.read(3) == ["PUT", "w/past", "three"]


def test_watch_on_every_member_sees_writes_of_any_other(cluster: Cluster) -> None:
    """WCH-30, RFT-08."""
    ok(cluster.etcdctl("put", "w/all/0", "start"))
    start = cluster.revision("w/all/0")
    for number, endpoint in enumerate(cluster.endpoints):
        others = [other for other in cluster.endpoints if other != endpoint]
        flags = ["--prefix", f"--rev={start + 1 + number}"]
        with cluster.etcdctl_stream("watch", "w/all/", *flags, endpoints=[endpoint]) as watch:
            ok(cluster.etcdctl("put", f"w/all/{number}", "x", endpoints=others))
            assert watch.read(3) == ["PUT", f"w/all/{number}", "x"]


def test_watch_prev_kv_prints_the_value_before(cluster: Cluster) -> None:
    ok(cluster.etcdctl("put", "w/prev", "one"))
    start = cluster.revision("w/prev")
    ok(cluster.etcdctl("put", "w/prev", "two"))
    ok(cluster.etcdctl("del", "w/prev"))
    flags = ["--prev-kv", f"--rev={start}"]
    with cluster.etcdctl_stream("watch", "w/prev", *flags) as watch:
        assert watch.read(3) == ["PUT", "w/prev", "one"]
        assert watch.read(5) == ["PUT", "w/prev", "one", "w/prev", "two"]
        assert watch.read(5) == ["DELETE", "w/prev", "two", "w/prev", ""]


def test_watch_of_a_range(cluster: Cluster) -> None:
    ok(cluster.etcdctl("put", "w/r/a", "1"))
    start = cluster.revision("w/r/a")
    for key in "bcd":
        ok(cluster.etcdctl("put", f"w/r/{key}", key))
    with cluster.etcdctl_stream("watch", "w/r/b", "w/r/d", f"--rev={start}") as watch:
        assert watch.read(6) == ["PUT", "w/r/b", "b", "PUT", "w/r/c", "c"]


def test_watch_progress_notify_reports_the_revision(cluster: Cluster) -> None:
    """WCH-33."""
    ok(cluster.etcdctl("put", "w/progress", "x"))
    written = cluster.revision("w/progress")
    with cluster.etcdctl_stream("watch", "w/idle", "--progress-notify") as watch:
        line = watch.read(1)[0]
        assert line.startswith("progress notify: ")
        assert int(line.split(": ")[1]) >= written


def test_interactive_watch_answers_progress(cluster: Cluster) -> None:
    """OTH-02, WCH-36."""
    ok(cluster.etcdctl("put", "w/i", "x"))
    start = cluster.revision("w/i")
    with cluster.etcdctl_stream("watch", "-i") as watch:
        watch.write(f"watch w/i --rev={start}\n")
        assert watch.read(3) == ["PUT", "w/i", "x"]
        # A request made while a watcher catches up is dropped by design (WCH-37): ask again.
        got: list[str] = []
        while not got:
            watch.write("progress\n")
            try:
                got = watch.read(1, timeout=2)
            except AssertionError:
                continue
        assert re.fullmatch(r"progress notify: \d+", got[0])
        assert int(got[0].split(": ")[1]) >= start


# -- lease -----------------------------------------------------------------------------------------


def grant(cluster: Cluster, ttl: int) -> str:
    """Grant a lease and return its id as etcdctl prints it."""
    out = ok(cluster.etcdctl("lease", "grant", str(ttl)))
    found = re.fullmatch(r"lease ([0-9a-f]{16}) granted with TTL\((\d+)s\)\n", out)
    assert found, out
    assert int(found[2]) == ttl
    return found[1]


def test_lease_grant_list_timetolive_and_revoke(cluster: Cluster) -> None:
    lease = grant(cluster, 300)
    ok(cluster.etcdctl("put", "lease/a", "x", f"--lease={lease}"))
    ok(cluster.etcdctl("put", "lease/b", "x", f"--lease={lease}"))

    assert lease in ok(cluster.etcdctl("lease", "list")).split()
    out = ok(cluster.etcdctl("lease", "timetolive", lease, "--keys"))
    found = re.fullmatch(
        rf"lease {lease} granted with TTL\(300s\), remaining\((\d+)s\), attached keys\((.*)\)\n",
        out,
    )
    assert found, out
    assert 290 <= int(found[1]) <= 300
    assert sorted(found[2].strip("[]").split()) == ["lease/a", "lease/b"]

    assert ok(cluster.etcdctl("lease", "revoke", lease)) == f"lease {lease} revoked\n"
    assert ok(cluster.etcdctl("get", "lease/", "--prefix")) == ""
    out = ok(cluster.etcdctl("lease", "timetolive", lease))
    assert out == f"lease {lease} already expired\n"


def test_lease_keep_alive_once_through_every_member(cluster: Cluster) -> None:
    """LSE-08."""
    lease = grant(cluster, 60)
    for endpoint in cluster.endpoints:
        out = ok(cluster.etcdctl("lease", "keep-alive", "--once", lease, endpoints=[endpoint]))
        assert out == f"lease {lease} keepalived with TTL(60)\n"


def test_lease_keep_alive_holds_the_key_and_expiry_takes_it(cluster: Cluster) -> None:
    lease = grant(cluster, 2)
    ok(cluster.etcdctl("put", "expiry/a", "x", f"--lease={lease}"))
    start = cluster.revision("expiry/a")

    with cluster.etcdctl_stream("lease", "keep-alive", lease) as keeper:
        # Etcdctl renews at a third of the TTL: five answers span more than one whole TTL.
        for line in keeper.read(5):
            assert line == f"lease {lease} keepalived with TTL(2)"
        assert ok(cluster.etcdctl("get", "expiry/a")) == "expiry/a\nx\n"

    with cluster.etcdctl_stream("watch", "expiry/a", f"--rev={start + 1}") as watch:
        assert watch.read(2) == ["DELETE", "expiry/a"]
    assert ok(cluster.etcdctl("get", "expiry/a")) == ""


def test_lease_that_does_not_exist(cluster: Cluster) -> None:
    done = cluster.etcdctl("put", "lease/none", "x", "--lease=1234")
    assert error(done) == "Error: etcdserver: requested lease not found"
    done = cluster.etcdctl("lease", "revoke", "1234")
    assert error(done) == ("Error: failed to revoke lease (etcdserver: requested lease not found)")
    done = cluster.etcdctl("lease", "keep-alive", "--once", "1234")
    assert error(done) == "Error: etcdserver: requested lease not found"
    out = ok(cluster.etcdctl("lease", "timetolive", "1234"))
    assert out == "lease 0000000000001234 already expired\n"


# -- compaction ------------------------------------------------------------------------------------


def test_compaction_ends_the_past(cluster: Cluster) -> None:
    """CMP-01, CMP-04, CMP-07, JEP-10."""
    for value in ("one", "two", "three"):
        ok(cluster.etcdctl("put", "compact/a", value))
    last = cluster.revision("compact/a")

    out = ok(cluster.etcdctl("compaction", str(last), "--physical"))
    assert out == f"compacted revision {last}\n"

    assert error(cluster.etcdctl("compaction", str(last))) == COMPACTED
    assert error(cluster.etcdctl("compaction", "1000000000")) == FUTURE
    for endpoint in cluster.endpoints:
        only = [endpoint]
        assert ok(cluster.etcdctl("get", "compact/a", endpoints=only)) == "compact/a\nthree\n"
        out = ok(cluster.etcdctl("get", "compact/a", f"--rev={last}", endpoints=only))
        assert out == "compact/a\nthree\n"
        done = cluster.etcdctl("get", "compact/a", f"--rev={last - 1}", endpoints=only)
        assert error(done) == COMPACTED


def test_watch_of_a_compacted_revision_is_canceled(cluster: Cluster) -> None:
    """WCH-14, WCH-15."""
    for value in ("one", "two"):
        ok(cluster.etcdctl("put", "compact/w", value))
    last = cluster.revision("compact/w")
    ok(cluster.etcdctl("compaction", str(last)))

    done = cluster.etcdctl("watch", "compact/w", f"--rev={last - 1}")

    assert done.returncode != 0
    assert done.stderr.splitlines() == [
        "watch was canceled (etcdserver: mvcc: required revision has been compacted)",
        "Error: watch is canceled by the server",
    ]
    with cluster.etcdctl_stream("watch", "compact/w", f"--rev={last}") as watch:
        assert watch.read(3) == ["PUT", "compact/w", "two"]


# -- endpoints and members -------------------------------------------------------------------------


def test_endpoint_health(cluster: Cluster) -> None:
    """OTH-01."""
    for flags in ([], ["--cluster"]):
        lines = ok(cluster.etcdctl("endpoint", "health", *flags)).splitlines()
        assert len(lines) == 3
        pattern = r"\S+ is healthy: successfully committed proposal: took = \S+"
        assert all(re.fullmatch(pattern, line) for line in lines), lines
    answer = json.loads(ok(cluster.etcdctl("endpoint", "health", "-w", "json")))
    assert [entry["health"] for entry in answer] == [True, True, True]


def test_endpoint_status_names_one_leader(cluster: Cluster) -> None:
    """MNT-01, MNT-02, MNT-04, OTH-04."""
    table = ok(cluster.etcdctl("endpoint", "status", "-w", "table"))
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()
        if line.startswith("|")
    ]
    assert rows[0][:6] == ["ENDPOINT", "ID", "VERSION", "DB SIZE", "IS LEADER", "IS LEARNER"]
    assert [row[0] for row in rows[1:]] == cluster.endpoints
    assert sorted(row[4] for row in rows[1:]) == ["false", "false", "true"]

    answer = json.loads(ok(cluster.etcdctl("endpoint", "status", "--cluster", "-w", "json")))
    statuses = [entry["Status"] for entry in answer]
    assert len({status["leader"] for status in statuses}) == 1
    ids = {status["header"]["member_id"] for status in statuses}
    assert len(ids) == 3
    assert statuses[0]["leader"] in ids
    for status in statuses:
        assert re.fullmatch(r"3\.\d+\.\d+", status["version"])
        assert 0 < status["dbSizeInUse"] <= status["dbSize"]
        assert 0 < status["raftAppliedIndex"] <= status["raftIndex"]
        assert status["raftTerm"] == status["header"]["raft_term"] > 0


def test_endpoint_hashkv_agrees_on_all_members(cluster: Cluster) -> None:
    """MNT-21."""
    ok(cluster.etcdctl("put", "hash/a", "x"))
    rev = str(cluster.revision("hash/a"))
    for endpoint in cluster.endpoints:  # a linearizable read brings each member up to `rev`
        ok(cluster.etcdctl("get", "hash/a", endpoints=[endpoint]))

    out = ok(cluster.etcdctl("endpoint", "hashkv", f"--rev={rev}"))
    answer = json.loads(ok(cluster.etcdctl("endpoint", "hashkv", "--cluster", "-w", "json")))

    assert len({line.split(", ")[1] for line in out.splitlines()}) == 1
    assert len(answer) == 3
    assert len({entry["HashKV"]["hash"] for entry in answer}) == 1


def test_member_list(cluster: Cluster) -> None:
    """CLU-01, CLU-16."""
    lines = ok(cluster.etcdctl("member", "list")).splitlines()
    seen = {}
    for line in lines:
        identity, status, name, peer, client, learner = line.split(", ")
        assert re.fullmatch(r"[0-9a-f]{1,16}", identity)
        assert (status, learner) == ("started", "false")
        seen[name] = (peer, client)
    assert seen == {
        m.name: (f"http://127.0.0.1:{m.peer_port}", f"http://{m.endpoint}") for m in cluster.members
    }


def test_alarm_list_is_empty(cluster: Cluster) -> None:
    assert ok(cluster.etcdctl("alarm", "list")) == ""


# -- load ------------------------------------------------------------------------------------------

LOAD_CLIENTS = 30
LOAD_PUTS_PER_CLIENT = 50
LOAD_VALUE_BYTES = 1024


def test_small_load_like_check_perf(cluster: Cluster) -> None:
    """JEP-04: as ``etcdctl check perf`` (which takes a minute): all answered, all there."""
    value = b"x" * LOAD_VALUE_BYTES

    def run(number: int) -> list[int]:
        client = cluster.client(number % 3)
        return [
            client.put(b"perf/%03d/%04d" % (number, i), value, timeout=30).header.revision
            for i in range(LOAD_PUTS_PER_CLIENT)
        ]

    for i in range(3):
        cluster.client(i)
    with ThreadPoolExecutor(LOAD_CLIENTS) as pool:
        revisions = [rev for revs in pool.map(run, range(LOAD_CLIENTS)) for rev in revs]

    total = LOAD_CLIENTS * LOAD_PUTS_PER_CLIENT
    assert len(set(revisions)) == total, "every put has a revision of its own"
    out = ok(cluster.etcdctl("get", "perf/", "--prefix", "--count-only", "-w", "fields"))
    assert f'"Count" : {total}' in out.splitlines()
    assert ok(cluster.etcdctl("del", "perf/", "--prefix")) == f"{total}\n"
