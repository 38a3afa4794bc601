"""The same JSON to real etcd and to this server: the same answers, field by field and in order.

Bodies are compared as JSON with the order of their fields, without ids and terms; statuses and
content types as they are. Requests that only JSON can say wrongly are written out below; the rest
is random, by seed. What etcd 3.5.1 does otherwise, and etcd 3.6 does as here, is in `OLDER`.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.e2e.cluster import OUR_PROGRAM, Cluster
from tests.e2e.etcdctl import distro_binary
from tests.e2e.http_client import Answer, ask

SEEDS = (1, 2, 3)
REQUESTS = 250

UNEQUAL = frozenset({"cluster_id", "member_id", "raft_term"})
"""Fields that name the member or the election, not the answer."""

Ports = tuple[int, int]
"""Client ports of etcd and of this server."""


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    with ExitStack() as stack:
        clusters = [
            stack.enter_context(Cluster(1, tmp_path_factory.mktemp(name), program))
            for name, program in (("etcd", (distro_binary("etcd"),)), ("ours", OUR_PROGRAM))
        ]
        for cluster in clusters:
            cluster.start(0)
        for cluster in clusters:
            cluster.wait_healthy()
        etcd, ours = (cluster.members[0].client_port for cluster in clusters)
        yield etcd, ours


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def ordered(text: str) -> list[Any]:
    """The lines of JSON, objects as lists of pairs, without what differs between members."""

    def pairs(found: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
        return [pair for pair in found if pair[0] not in UNEQUAL]

    return [json.loads(line, object_pairs_hook=pairs) for line in text.splitlines()]


def both(ports: Ports, path: str, body: Any) -> tuple[Answer, Answer]:
    etcd, ours = (ask(port, path, body) for port in ports)
    return etcd, ours


def assert_equal(ports: Ports, path: str, body: Any) -> Answer:
    """Ask both and compare; the answer is ours."""
    etcd, ours = both(ports, path, body)
    shown = f"{path} {body}\netcd: {etcd.status} {etcd.body}\nours: {ours.status} {ours.body}"
    assert etcd.status == ours.status, shown
    assert etcd.headers["content-type"] == ours.headers["content-type"], shown
    for name in ("grpc-metadata-content-type", "access-control-allow-origin"):
        assert etcd.headers.get(name) == ours.headers.get(name), shown
    assert ordered(etcd.body) == ordered(ours.body), shown
    return ours


def assert_both_refuse(ports: Ports, path: str, body: Any) -> None:
    """The reasons of the two JSON parsers differ (protobuf's are unstable on purpose)."""
    etcd, ours = both(ports, path, body)
    assert (etcd.status, etcd.json["code"]) == (400, 3), etcd
    assert (ours.status, ours.json["code"]) == (400, 3), ours
    assert list(etcd.json) == list(ours.json)


@pytest.mark.parametrize(
    "body",
    [
        "", " ", "{", "{}x", '{"key":"Zm9v"} garbage', '{"key":"Zm9v"}{"key":""}', "[", "[1]", "7",
        '"x"', "{'key':1}", '{"key":7}', '{"key":true}', '{"key":"Z!=="}',
        '{"key":"Zm9v","limit":"x"}', '{"key":"Zm9v","limit":1.5}', '{"key":"Zm9v","limit":true}',
        '{"key":"Zm9v","limit":9223372036854775808}', '{"key":"Zm9v","limit":"-1"}',
        '{"key":"Zm9v","limit":9223372036854775807}', '{"key":"Zm9v","nope":{"a":[1]}}',
        '{"key":"Zm9v","serializable":"true"}', '{"key":"Zm9v","serializable":1}',
        '{"key":"Zm9v","sort_order":"ASCEND","sort_target":"MOD"}', '{"key":"Zm9v","sortOrder":2}',
        '{"key":"Zm9v","limit":null,"range_end":null}',
        '{"key":"Zm9v","revision":-1}', '{"key":"Zm9v","revision":"1000000"}',
        '{"key":"Zm9v","keys_only":true,"count_only":true}',
        '\t{"key"\n:\r"Zm9v" }', '{"key":"\\u005am9v"}', '{"key":"Zm9v","a":"\\ud83d\\ude00"}',
    ],
)  # fmt: skip
def test_a_body_means_the_same_to_both(ports: Ports, body: str) -> None:
    """HTP-10, HTP-12: good and bad bodies of a range."""
    etcd, _ = both(ports, "/v3/kv/range", body)
    if etcd.status == 400 and not etcd.json["message"].startswith("etcdserver: "):
        assert_both_refuse(ports, "/v3/kv/range", body)
    else:
        assert_equal(ports, "/v3/kv/range", body)


OLDER = [
    ('{"key":"Zm9v","sort_order":"UPWARDS"}', "an unknown enum name is ignored"),
    ('{"key":"_-8="}', "URL-safe base64 is read"),
    ('{"key":"Zm8"}', "base64 without padding is read"),
    ('{"key":"Zm9v","limit":7.0}', "a fraction of zero is none"),
    ('{"key":"Zm9v","limit":"1e1"}', "exponents are read"),
]


@pytest.mark.parametrize(("body", "why"), OLDER)
def test_what_the_older_gateway_refuses(ports: Ports, body: str, why: str) -> None:
    """HTP-10: etcd 3.6 accepts it."""
    etcd, ours = both(ports, "/v3/kv/range", body)
    assert (etcd.status, ours.status) == (400, 200), why


@pytest.mark.parametrize("body", ['{"key":"Zm9v","key":"YmFy"}', "\ufeff{}"])
def test_what_the_newer_gateway_refuses(ports: Ports, body: str) -> None:
    """HTP-10: a duplicate field is an error since etcd 3.6; a byte order mark always was."""
    assert ask(ports[1], "/v3/kv/range", body.encode()).status == 400


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("kv/put", {"key": ""}),
        ("kv/put", {"key": "YQ==", "lease": "12345"}),
        ("kv/put", {"key": "YQ==", "ignore_value": True, "value": "YQ=="}),
        ("kv/deleterange", {"key": ""}),
        ("kv/txn", {"success": [{"request_put": {"key": ""}}]}),
        ("kv/txn", {"success": [{"request_put": {"key": "YQ=="}}] * 2}),
        ("kv/txn", {"success": [{"request_range": {"key": "YQ=="}}] * 129}),
        ("kv/txn", {"success": [{}]}),
        ("kv/txn", {"compare": [{"key": ""}]}),
        ("kv/txn", {"compare": [{"key": "YQ==", "target": "VERSION"}]}),
        ("kv/txn", {}),
        ("kv/compaction", {"revision": "1000000"}),
        ("kv/compaction", {}),
        ("lease/grant", {"TTL": "9000000001", "ID": 3}),
        ("lease/grant", {"TTL": 0, "ID": 4}),
        ("lease/grant", {"TTL": -5, "ID": 5}),
        ("lease/revoke", {"ID": "77"}),
        ("lease/timetolive", {"ID": "77"}),
        ("kv/lease/timetolive", {"ID": "77", "keys": True}),
        ("lease/keepalive", {"ID": "77"}),
        ("lease/keepalive", ""),
        ("maintenance/alarm", {}),
        ("maintenance/transfer-leadership", {"targetID": "77"}),
        ("auth/status", {}),
        ("auth/disable", {}),
        ("auth/authenticate", {"name": "root", "password": "x"}),
        ("auth/authenticate", {}),
        ("election/leader", {"name": "YQ=="}),
        ("election/proclaim", {}),
        ("election/resign", {"leader": {"name": "YQ==", "key": "YQ==", "rev": 7}}),
        ("lock/unlock", {"key": "YQ=="}),
    ],
)
def test_a_call_ends_the_same_for_both(ports: Ports, path: str, body: Any) -> None:
    """HTP-09, HTP-11, HTP-12: errors and empty answers of every service."""
    assert_equal(ports, f"/v3/{path}", body)
    assert_equal(ports, f"/v3beta/{path}", body)


def test_streams_begin_the_same(ports: Ports) -> None:
    """HTP-11: one keepalive for a lease that there is."""
    assert_equal(ports, "/v3/lease/grant", {"TTL": 500, "ID": 500})
    assert assert_equal(ports, "/v3/lease/keepalive", '{"ID":500}').body.endswith('"TTL":"500"}}\n')
    assert_equal(ports, "/v3/lease/keepalive", '{"ID":500}{"ID":"7"}\n{"ID":500}')


# -- random requests ----------------------------------------------------------------------------


class Requests:
    """Random requests by seed: what the gateways of 3.5 and 3.6 both take, in every spelling."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._keys = [b64(key) for key in ("a", "ab", "b", "ba", "c", "ü", "\0", "~")]

    def _chance(self, odds: float) -> bool:
        return self._random.random() < odds

    def _number(self, low: int, high: int) -> Any:
        number = self._random.randint(low, high)
        return self._random.choice([number, str(number)])

    def _named(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The fields in random order, some under their camelCase name."""
        pairs = list(fields.items())
        self._random.shuffle(pairs)
        named = {}
        for name, value in pairs:
            head, *rest = name.split("_")
            camel = head + "".join(part.title() for part in rest)
            named[self._random.choice([name, camel])] = value
        if self._chance(0.1):
            named["no_such_field"] = self._random.choice([None, 7, "x", [{"a": {}}]])
        return named

    def _key(self) -> str:
        return self._random.choice(self._keys)

    def _value(self) -> str:
        return base64.b64encode(self._random.randbytes(self._random.randrange(6))).decode()

    def _interval(self) -> dict[str, Any]:
        found = {"key": self._key()}
        if self._chance(0.5):
            found["range_end"] = self._random.choice([*self._keys, b64("\0")])
        return found

    def range(self) -> dict[str, Any]:
        fields = self._interval()
        options = {
            "revision": self._number(-1, 40),
            "serializable": self._chance(0.5),
            "keys_only": self._chance(0.5),
            "count_only": self._chance(0.3),
            "min_mod_revision": self._number(0, 20),
            "max_create_revision": self._number(0, 60),
            "sort_target": self._random.choice(["KEY", "VERSION", "CREATE", "MOD", 0, 1, 2, 3]),
            "sort_order": self._random.choice(["NONE", "ASCEND", "DESCEND", 0, 1, 2]),
        }
        fields.update((name, value) for name, value in options.items() if self._chance(0.25))
        if not fields.keys() & {"sort_order", "sort_target"} and self._chance(0.3):
            # With a sorted range RNG-19 differs on purpose.
            fields["limit"] = self._number(-1, 4)
        return self._named(fields)

    def put(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"key": self._key(), "value": self._value()}
        if self._chance(0.2):
            fields["prev_kv"] = self._chance(0.8)
        if self._chance(0.1):
            fields["lease"] = self._number(0, 3)
        if self._chance(0.1):
            fields["ignore_value"] = True
            if self._chance(0.7):
                del fields["value"]
        return self._named(fields)

    def deleterange(self) -> dict[str, Any]:
        fields = self._interval()
        if self._chance(0.5):
            fields["prev_kv"] = True
        return self._named(fields)

    def _compare(self) -> dict[str, Any]:
        target, field = self._random.choice(
            [("VERSION", "version"), ("CREATE", "create_revision"), ("MOD", "mod_revision"),
             ("VALUE", "value"), ("LEASE", "lease")]
        )  # fmt: skip
        value = self._value() if field == "value" else self._number(0, 30)
        fields = {**self._interval(), "target": target, field: value}
        if self._chance(0.8):
            fields["result"] = self._random.choice(["EQUAL", "GREATER", "LESS", "NOT_EQUAL", 0, 3])
        return self._named(fields)

    def txn(self, nested: bool = False) -> dict[str, Any]:
        """Ranges, puts of different keys, and once a transaction that only reads.

        What transactions do with what they delete is not the gateway's concern.
        """

        def operations() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = []
            for key in self._random.sample(self._keys, self._random.randrange(3)):
                if self._chance(0.3) and not nested:
                    found.append(self._named({"request_txn": self.txn(nested=True)}))
                elif self._chance(0.5) and not nested:
                    body = {"key": key, "value": self._value(), "prev_kv": self._chance(0.5)}
                    found.append(self._named({"request_put": self._named(body)}))
                else:
                    body = self.range()
                    body.pop("revision", None)  # its errors end etcd 3.5 within the transaction
                    found.append(self._named({"request_range": body}))
            return found

        compares = [self._compare() for _ in range(self._random.randrange(3))]
        return self._named({"compare": compares, "success": operations(), "failure": operations()})

    def next(self) -> tuple[str, dict[str, Any]]:
        """Return a path and a body."""
        kind = self._random.choices(
            ["kv/range", "kv/put", "kv/deleterange", "kv/txn", "lease", "kv/compaction"],
            [30, 30, 8, 25, 6, 1],
        )[0]
        if kind == "lease":
            lease = self._number(1, 3)
            path = self._random.choice(["lease/grant", "kv/lease/revoke", "lease/timetolive"])
            body = {"ID": lease, "TTL": 500} if path == "lease/grant" else {"ID": lease}
            return f"/v3/{path}", self._named(body)
        if kind == "kv/compaction":
            return f"/v3/{kind}", {"revision": self._number(1, 30), "physical": True}
        return f"/v3/{kind}", getattr(self, kind.removeprefix("kv/"))()


@pytest.mark.parametrize("seed", SEEDS)
def test_random_requests_are_answered_the_same(ports: Ports, seed: int) -> None:
    """HTP-09, HTP-10, HTP-12: whatever both gateways take; the seed repeats a failure."""
    requests = Requests(seed)
    for number in range(REQUESTS):
        path, body = requests.next()
        try:
            assert_equal(ports, path, body)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, request {number}: {error}") from None
