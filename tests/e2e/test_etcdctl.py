"""What a user does with the real etcdctl 3.5.1 against three real members.

Each test uses keys under its own name, so they share one cluster and run in any order. Compaction
tests compact only what they wrote: other tests never read old revisions across tests.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from kvstore.pb import rpc_pb2
from tests.e2e.cluster import Cluster

COMPACTED = "Error: etcdserver: mvcc: required revision has been compacted"
FUTURE = "Error: etcdserver: mvcc: required revision is a future revision"


def ok(done: subprocess.CompletedProcess[str]) -> str:
    """The output of a command that must have succeeded."""
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def error(done: subprocess.CompletedProcess[str]) -> str:
    """The last line of the error output of a command that must have failed."""
    assert done.returncode != 0, done.stdout
    return done.stderr.splitlines()[-1]


def revision(cluster: Cluster, key: str) -> int:
    """The revision at which `key` was written last."""
    answer = json.loads(ok(cluster.etcdctl("get", key, "-w", "json")))
    return int(answer["kvs"][0]["mod_revision"])


def decoded(answer: dict[str, Any]) -> dict[str, str]:
    """Key → value of a Range answer in JSON."""
    plain = lambda text: base64.b64decode(text).decode()  # noqa: E731
    return {plain(kv["key"]): plain(kv.get("value", "")) for kv in answer.get("kvs", [])}


# -- put and get -----------------------------------------------------------------------------------


def test_put_then_get_through_every_member(cluster: Cluster) -> None:
    assert ok(cluster.etcdctl("put", "greet/a", "hello")) == "OK\n"
    for endpoint in cluster.endpoints:
        assert ok(cluster.etcdctl("get", "greet/a", endpoints=[endpoint])) == "greet/a\nhello\n"


def test_put_takes_its_value_from_standard_input(cluster: Cluster) -> None:
    ok(cluster.etcdctl("put", "stdin/a", input="line one\nline two"))
    out = ok(cluster.etcdctl("get", "stdin/a", "--print-value-only"))
    assert out == "line one\nline two\n"


def test_put_prev_kv_prints_what_was_there(cluster: Cluster) -> None:
    ok(cluster.etcdctl("put", "prev/a", "old"))
    assert ok(cluster.etcdctl("put", "prev/a", "new", "--prev-kv")) == "OK\nprev/a\nold\n"


def test_put_ignore_value_and_ignore_lease(cluster: Cluster) -> None:
    ok(cluster.etcdctl("put", "ignore/a", "kept"))
    ok(cluster.etcdctl("put", "ignore/a", "--ignore-value"))
    ok(cluster.etcdctl("put", "ignore/a", "other", "--ignore-lease"))

    answer = json.loads(ok(cluster.etcdctl("get", "ignore/a", "-w", "json")))

    assert decoded(answer) == {"ignore/a": "other"}
    assert answer["kvs"][0]["version"] == 3
    for flags in (["--ignore-value"], ["x", "--ignore-lease"]):
        done = cluster.etcdctl("put", "ignore/missing", *flags)
        assert error(done) == "Error: etcdserver: key not found"


def test_keys_and_values_may_be_any_text(cluster: Cluster) -> None:
    ok(cluster.etcdctl("put", "unicode/ключ 鍵", "värde\tπ"))
    ok(cluster.etcdctl("put", "unicode/empty", ""))
    out = ok(cluster.etcdctl("get", "unicode/", "--prefix"))
    assert out == "unicode/empty\n\nunicode/ключ 鍵\nvärde\tπ\n"
    ok(cluster.etcdctl("put", "--", "unicode-dash", "-value"))
    assert ok(cluster.etcdctl("get", "unicode-dash", "--hex")) == (
        r"\x75\x6e\x69\x63\x6f\x64\x65\x2d\x64\x61\x73\x68"
        "\n"
        r"\x2d\x76\x61\x6c\x75\x65"
        "\n"
    )


@pytest.fixture(scope="module")
def fruit(cluster: Cluster) -> Cluster:
    """Keys whose orders by key, value, version, creation and modification all differ."""
    for key, value in [("b", "3"), ("a", "2"), ("d", "1"), ("c", "4"), ("a", "5"), ("a", "2")]:
        ok(cluster.etcdctl("put", f"fruit/{key}", value))
    ok(cluster.etcdctl("put", "fruit/b", "3"))
    return cluster


@pytest.mark.parametrize(
    ("flags", "keys"),
    [
        ([], "abcd"),
        (["--limit=2"], "ab"),
        (["--order=DESCEND"], "dcba"),
        (["--order=DESCEND", "--limit=3"], "dcb"),
        (["--sort-by=KEY", "--order=ASCEND"], "abcd"),
        (["--sort-by=CREATE"], "badc"),
        (["--sort-by=CREATE", "--order=DESCEND", "--limit=1"], "c"),
        (["--sort-by=MODIFY"], "dcab"),
        (["--sort-by=VERSION", "--order=DESCEND"], "abcd"),
        (["--sort-by=VALUE"], "dabc"),
        (["--sort-by=VALUE", "--order=DESCEND", "--limit=2"], "cb"),
        (["--consistency=s"], "abcd"),
    ],
)
def test_get_prefix_sorts_and_limits(fruit: Cluster, flags: list[str], keys: str) -> None:
    for endpoint in fruit.endpoints:  # a linearizable read brings every member up to date, so
        ok(fruit.etcdctl("get", "fruit/a", endpoints=[endpoint]))  # a serializable one has it all
    out = ok(fruit.etcdctl("get", "fruit/", "--prefix", "--keys-only", *flags))
    assert out.split() == [f"fruit/{key}" for key in keys]


def test_get_range_is_half_open_and_from_key_has_no_end(fruit: Cluster) -> None:
    out = ok(fruit.etcdctl("get", "fruit/b", "fruit/d", "--keys-only"))
    assert out.split() == ["fruit/b", "fruit/c"]
    out = ok(fruit.etcdctl("get", "fruit/c", "--from-key", "--keys-only", "--limit=2"))
    assert out.split() == ["fruit/c", "fruit/d"]
    assert ok(fruit.etcdctl("get", "fruit/d", "fruit/b")) == ""


def test_get_prints_values_only_or_counts_only(fruit: Cluster) -> None:
    out = ok(fruit.etcdctl("get", "fruit/", "--prefix", "--print-value-only"))
    assert out.split() == ["2", "3", "4", "1"]
    out = ok(fruit.etcdctl("get", "fruit/", "--prefix", "--count-only", "-w", "fields"))
    assert '"Count" : 4' in out.splitlines()
    assert '"Key"' not in out


def test_get_limit_says_there_is_more(fruit: Cluster) -> None:
    answer = json.loads(ok(fruit.etcdctl("get", "fruit/", "--prefix", "--limit=3", "-w", "json")))
    assert answer["more"] is True
    assert answer["count"] == 4
    assert len(answer["kvs"]) == 3
    answer = json.loads(ok(fruit.etcdctl("get", "fruit/", "--prefix", "--limit=4", "-w", "json")))
    assert "more" not in answer


def test_get_at_a_revision_shows_the_past(cluster: Cluster) -> None:
    ok(cluster.etcdctl("put", "past/a", "first"))
    first = revision(cluster, "past/a")
    ok(cluster.etcdctl("put", "past/a", "second"))
    ok(cluster.etcdctl("del", "past/a"))

    assert ok(cluster.etcdctl("get", "past/a")) == ""
    assert ok(cluster.etcdctl("get", "past/a", f"--rev={first}")) == "past/a\nfirst\n"
    assert ok(cluster.etcdctl("get", "past/a", f"--rev={first + 1}")) == "past/a\nsecond\n"
    assert error(cluster.etcdctl("get", "past/a", "--rev=1000000000")) == FUTURE


def test_get_in_json_fields_and_protobuf_agree(cluster: Cluster) -> None:
    ok(cluster.etcdctl("put", "forms/a", "v"))

    from_json = json.loads(ok(cluster.etcdctl("get", "forms/a", "-w", "json")))
    fields = dict(
        line.split(" : ", 1)
        for line in ok(cluster.etcdctl("get", "forms/a", "-w", "fields")).splitlines()
    )
    raw = ok(cluster.etcdctl("get", "forms/a", "-w", "protobuf")).encode(errors="surrogateescape")
    message = rpc_pb2.RangeResponse.FromString(raw)

    assert fields['"Key"'] == '"forms/a"'
    assert fields['"Version"'] == "1"
    assert message.kvs[0].key == b"forms/a"
    assert message.count == from_json["count"] == int(fields['"Count"']) == 1
    kv = from_json["kvs"][0]
    assert message.kvs[0].mod_revision == kv["mod_revision"] == int(fields['"ModRevision"'])
    assert message.header.cluster_id == from_json["header"]["cluster_id"]
    members = json.loads(ok(cluster.etcdctl("member", "list", "-w", "json")))["members"]
    assert message.header.member_id in {member["ID"] for member in members}


def test_empty_key_is_refused_with_etcds_words(cluster: Cluster) -> None:
    for command in (["get", ""], ["put", "", "x"], ["del", ""]):
        assert error(cluster.etcdctl(*command)) == "Error: etcdserver: key is not provided"


# -- delete ----------------------------------------------------------------------------------------


def test_del_counts_and_prints_what_it_removed(cluster: Cluster) -> None:
    for key in "abcdef":
        ok(cluster.etcdctl("put", f"gone/{key}", key.upper()))

    assert ok(cluster.etcdctl("del", "gone/missing")) == "0\n"
    assert ok(cluster.etcdctl("del", "gone/a", "--prev-kv")) == "1\ngone/a\nA\n"
    assert ok(cluster.etcdctl("del", "gone/b", "gone/d")) == "2\n"
    assert ok(cluster.etcdctl("get", "gone/", "--prefix", "--keys-only")).split() == [
        "gone/d",
        "gone/e",
        "gone/f",
    ]
    assert ok(cluster.etcdctl("del", "gone/", "--prefix", "--prev-kv")) == (
        "3\ngone/d\nD\ngone/e\nE\ngone/f\nF\n"
    )


# -- txn -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("compare", "outcome"),
    [
        ('value("{k}") = "v2"', "SUCCESS"),
        ('value("{k}") > "v2"', "FAILURE"),
        ('value("{k}") < "v3"', "SUCCESS"),
        ('version("{k}") = "2"', "SUCCESS"),
        ('version("{k}") > "2"', "FAILURE"),
        ('version("{k}/none") = "0"', "SUCCESS"),
        ('create("{k}") > "0"', "SUCCESS"),
        ('create("{k}/none") = "0"', "SUCCESS"),
        ('mod("{k}") > "0"', "SUCCESS"),
        ('mod("{k}") < "1"', "FAILURE"),
        ('value("{k}/none") = "x"', "FAILURE"),
        ('version("{k}") = "2"\nvalue("{k}") = "wrong"', "FAILURE"),
    ],
)
def test_txn_compares(cluster: Cluster, compare: str, outcome: str) -> None:
    if not ok(cluster.etcdctl("get", "txn/cmp")):
        ok(cluster.etcdctl("put", "txn/cmp", "v1"))
        ok(cluster.etcdctl("put", "txn/cmp", "v2"))
    text = f"{compare.format(k='txn/cmp')}\n\nget txn/cmp\n\nget txn/cmp --print-value-only\n\n"
    out = ok(cluster.etcdctl("txn", input=text))
    assert out.splitlines()[0] == outcome
    assert out.splitlines()[-1] == "v2"


def test_txn_runs_its_branch_in_order_at_one_revision(cluster: Cluster) -> None:
    ok(cluster.etcdctl("put", "txn/a", "1"))
    script = (
        'mod("txn/a") > "0"\n\nput txn/b 2\nget txn/b\ndel txn/a\nget txn/a\n\nput txn/never 3\n\n'
    )

    out = ok(cluster.etcdctl("txn", input=script))

    assert out == "SUCCESS\n\nOK\n\ntxn/b\n2\n\n1\n\n"
    assert ok(cluster.etcdctl("get", "txn/never")) == ""
    assert ok(cluster.etcdctl("get", "txn/a")) == ""


def test_txn_failure_branch_and_duplicate_key(cluster: Cluster) -> None:
    script = 'value("txn/none") = "x"\n\nput txn/c yes\n\nput txn/c no\n\n'
    assert ok(cluster.etcdctl("txn", input=script)) == "FAILURE\n\nOK\n"
    assert ok(cluster.etcdctl("get", "txn/c", "--print-value-only")) == "no\n"

    twice = cluster.etcdctl("txn", input="\nput txn/d 1\nput txn/d 2\n\n\n")
    assert error(twice) == "Error: etcdserver: duplicate key given in txn request"
    assert ok(cluster.etcdctl("get", "txn/d")) == ""


# -- watch -----------------------------------------------------------------------------------------


def test_watch_from_a_past_revision_goes_on_live(cluster: Cluster) -> None:
    ok(cluster.etcdctl("put", "w/past", "one"))
    start = revision(cluster, "w/past")
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
    ok(cluster.etcdctl("put", "w/all/0", "start"))
    start = revision(cluster, "w/all/0")
    for number, endpoint in enumerate(cluster.endpoints):
        others = [other for other in cluster.endpoints if other != endpoint]
        flags = ["--prefix", f"--rev={start + 1 + number}"]
        with cluster.etcdctl_stream("watch", "w/all/", *flags, endpoints=[endpoint]) as watch:
            ok(cluster.etcdctl("put", f"w/all/{number}", "x", endpoints=others))
            assert watch.read(3) == ["PUT", f"w/all/{number}", "x"]


def test_watch_prev_kv_prints_the_value_before(cluster: Cluster) -> None:
    ok(cluster.etcdctl("put", "w/prev", "one"))
    start = revision(cluster, "w/prev")
    ok(cluster.etcdctl("put", "w/prev", "two"))
    ok(cluster.etcdctl("del", "w/prev"))
    flags = ["--prev-kv", f"--rev={start}"]
    with cluster.etcdctl_stream("watch", "w/prev", *flags) as watch:
        assert watch.read(3) == ["PUT", "w/prev", "one"]
        assert watch.read(5) == ["PUT", "w/prev", "one", "w/prev", "two"]
        assert watch.read(5) == ["DELETE", "w/prev", "two", "w/prev", ""]


def test_watch_of_a_range(cluster: Cluster) -> None:
    ok(cluster.etcdctl("put", "w/r/a", "1"))
    start = revision(cluster, "w/r/a")
    for key in "bcd":
        ok(cluster.etcdctl("put", f"w/r/{key}", key))
    with cluster.etcdctl_stream("watch", "w/r/b", "w/r/d", f"--rev={start}") as watch:
        assert watch.read(6) == ["PUT", "w/r/b", "b", "PUT", "w/r/c", "c"]


def test_watch_progress_notify_reports_the_revision(cluster: Cluster) -> None:
    ok(cluster.etcdctl("put", "w/progress", "x"))
    written = revision(cluster, "w/progress")
    with cluster.etcdctl_stream("watch", "w/idle", "--progress-notify") as watch:
        line = watch.read(1)[0]
        assert line.startswith("progress notify: ")
        assert int(line.split(": ")[1]) >= written


def test_interactive_watch_answers_progress(cluster: Cluster) -> None:
    ok(cluster.etcdctl("put", "w/i", "x"))
    start = revision(cluster, "w/i")
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
    lease = grant(cluster, 60)
    for endpoint in cluster.endpoints:
        out = ok(cluster.etcdctl("lease", "keep-alive", "--once", lease, endpoints=[endpoint]))
        assert out == f"lease {lease} keepalived with TTL(60)\n"


def test_lease_keep_alive_holds_the_key_and_expiry_takes_it(cluster: Cluster) -> None:
    lease = grant(cluster, 2)
    ok(cluster.etcdctl("put", "expiry/a", "x", f"--lease={lease}"))
    start = revision(cluster, "expiry/a")

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
    for value in ("one", "two", "three"):
        ok(cluster.etcdctl("put", "compact/a", value))
    last = revision(cluster, "compact/a")

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
    for value in ("one", "two"):
        ok(cluster.etcdctl("put", "compact/w", value))
    last = revision(cluster, "compact/w")
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
    for flags in ([], ["--cluster"]):
        lines = ok(cluster.etcdctl("endpoint", "health", *flags)).splitlines()
        assert len(lines) == 3
        pattern = r"\S+ is healthy: successfully committed proposal: took = \S+"
        assert all(re.fullmatch(pattern, line) for line in lines), lines
    answer = json.loads(ok(cluster.etcdctl("endpoint", "health", "-w", "json")))
    assert [entry["health"] for entry in answer] == [True, True, True]


def test_endpoint_status_names_one_leader(cluster: Cluster) -> None:
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
    ok(cluster.etcdctl("put", "hash/a", "x"))
    rev = str(revision(cluster, "hash/a"))
    for endpoint in cluster.endpoints:  # a linearizable read brings each member up to `rev`
        ok(cluster.etcdctl("get", "hash/a", endpoints=[endpoint]))

    out = ok(cluster.etcdctl("endpoint", "hashkv", f"--rev={rev}"))
    answer = json.loads(ok(cluster.etcdctl("endpoint", "hashkv", "--cluster", "-w", "json")))

    assert len({line.split(", ")[1] for line in out.splitlines()}) == 1
    assert len(answer) == 3
    assert len({entry["HashKV"]["hash"] for entry in answer}) == 1


def test_member_list(cluster: Cluster) -> None:
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
    """As ``etcdctl check perf`` (which always takes a minute): every put answered, all there."""
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
