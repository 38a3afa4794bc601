"""Keys and values with the real etcdctl 3.5.1 against three real members.

Each test uses keys under its own name, so they share one cluster and run in any order.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from kvstore.pb import rpc_pb2
from tests.e2e.cluster import Cluster
from tests.e2e.etcdctl import error, ok

FUTURE = "Error: etcdserver: mvcc: required revision is a future revision"


def decoded(answer: dict[str, Any]) -> dict[str, str]:
    """Key → value of a Range answer in JSON."""
    return {plain(kv["key"]): plain(kv.get("value", "")) for kv in answer.get("kvs", [])}


def plain(text: str) -> str:
    """Base64 as it stands in etcdctl's JSON."""
    return base64.b64decode(text).decode()


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
    first = cluster.revision("past/a")
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
