"""The real kube-apiserver on three members; opt-in, since the project ships no Kubernetes.

``KUBE_APISERVER`` names the binary (1.30 or newer), ``KUBE_CONTROLLER_MANAGER`` and
``KUBE_SCHEDULER`` optionally the others; kubectl is found on PATH. `make test-kube` runs this.
The tests share one control plane and run in order; each makes objects of its own, and the last one
demands all that were ever acknowledged.
"""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.cluster import Cluster, reference_under_test, wait_until
from tests.kube.control_plane import ControlPlane, missing, version
from tests.kube.nodes import FakeNodes
from tests.kube.plane import CRD, Plane, config_map, deployment, everywhere
from tests.kube.rest import GONE, ApiError, Object, Rest, RestWatch, identity, versions

if WHY_NOT := missing():
    pytest.skip(WHY_NOT, allow_module_level=True)

CONFIG_MAPS, NAMESPACES = 1000, 5
COMPACTION_SECONDS = 20
EVENT_TTL_SECONDS = 10
DEADLINE_SECONDS = 180.0
REPLICAS = 12
PAGE = 130
FIRST_WITH_CONSISTENT_LISTS = (1, 31)
CONSISTENT_READS = "apiserver_watch_cache_consistent_read_total"


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    folder = tmp_path_factory.mktemp("kube")
    flags = [
        f"--etcd-compaction-interval={COMPACTION_SECONDS}s",
        f"--event-ttl={EVENT_TTL_SECONDS}s",
    ]
    with Cluster(3, folder) as cluster:
        cluster.start_all()
        with ControlPlane(folder, cluster.endpoints, flags) as control:
            control.start_apiserver()
            running = Plane(cluster, control, control.start_controllers())
            yield running
            running.rest.forget_connections()
            for program in control.others:
                program.check_running()


def test_custom_resources_are_defined_written_and_watched_by_kubectl(plane: Plane) -> None:
    plane.namespace("widgets")
    control = plane.control
    control.kubectl("apply", "-f", "-", stdin=json.dumps(CRD))
    control.kubectl("wait", "--for=condition=Established", "crd/widgets.test.example")
    path = "/apis/test.example/v1/namespaces/widgets/widgets"
    plane.kept["/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.test.example"] = (
        plane.rest.get(
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.test.example"
        )["metadata"]["uid"]
    )
    wait_until(lambda: served(plane.rest, path), DEADLINE_SECONDS, "widgets are served")

    with control.kubectl_lines(
        "get", "widgets", "-n", "widgets", "--watch", "--output-watch-events",
        "-o", "jsonpath={.type} {.object.metadata.name} {.object.spec.size}{\"\\n\"}",
    ) as lines:  # fmt: skip
        body = {"apiVersion": "test.example/v1", "kind": "Widget", "spec": {"size": 1}}
        for n in range(20):
            plane.create(path, {**body, "metadata": {"name": f"w{n}"}})
        made = {f"ADDED w{n} 1" for n in range(20)}
        wait_until(lambda: set(lines()) == made, DEADLINE_SECONDS, "kubectl sees 20 widgets")
        control.kubectl(
            "patch", "widget", "w3", "-n", "widgets", "--type=merge", "-p", '{"spec":{"size":7}}'
        )
        plane.rest.delete(f"{path}/w4")
        del plane.kept[f"{path}/w4"]
        wait_until(lambda: len(lines()) == 22, DEADLINE_SECONDS, "kubectl sees both changes")
        assert lines()[20:] == ["MODIFIED w3 7", "DELETED w4 1"]


def served(rest: Rest, path: str) -> bool:
    try:
        rest.get(path)
    except ApiError:
        return False
    return True


def test_a_thousand_config_maps_are_watched_and_listed_in_pages(plane: Plane) -> None:
    """The list at an old resourceVersion, too, after all was changed."""
    paths = [f"{plane.namespace(f'maps-{n}')}/configmaps" for n in range(NAMESPACES)]
    rest = plane.rest
    with RestWatch(rest, "/api/v1/configmaps") as watch:
        started = time.monotonic()
        made = everywhere(
            lambda n: plane.create(paths[n % NAMESPACES], config_map(f"cm-{n:04}", f"{n}")),
            CONFIG_MAPS,
        )
        print(f"{CONFIG_MAPS} config maps in {time.monotonic() - started:.2f} s")
        created = versions(made)

        in_pages, listed_at = rest.list("/api/v1/configmaps", limit=PAGE)
        whole, _ = rest.list("/api/v1/configmaps")
        assert versions(in_pages) == versions(whole)
        assert created.items() <= versions(whole).items()
        assert watch_saw(watch, "ADDED", created)

        def change(n: int) -> Object | None:
            path = f"{paths[n % NAMESPACES]}/cm-{n:04}"
            if n % 10 == 0:
                del plane.kept[path]
                rest.delete(path)
                return None
            return rest.patch(path, {"data": {"key": "changed"}})

        changed = versions([item for item in everywhere(change, 300) if item])
        exact = {"resourceVersion": listed_at, "resourceVersionMatch": "Exact"}
        for limit in (0, PAGE):
            old, version = rest.list("/api/v1/configmaps", limit=limit, **exact)
            assert version == listed_at
            assert versions(old) == versions(in_pages)
        assert watch_saw(watch, "MODIFIED", changed)
        now, _ = rest.list("/api/v1/configmaps", limit=PAGE)
        watch.wait_for(versions(now))
        assert watch.relists == 0
        assert len([1 for kind, *_ in watch.seen() if kind == "DELETED"]) == 30
    names = plane.control.kubectl(
        "get", "configmaps", "-A", "--chunk-size=70", "-o",
        "jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name}{\"\\n\"}{end}",
    )  # fmt: skip
    assert set(names.split()) == {identity(item) for item in now}


def test_consistent_lists_come_from_the_cache(plane: Plane) -> None:
    """apiserver asks its cache, not etcd, once every member is trusted to report progress."""
    if version(plane.control.program) < FIRST_WITH_CONSISTENT_LISTS:
        pytest.skip("apiserver before 1.31 asks etcd for consistent lists")
    path = f"{plane.namespace('cached')}/configmaps"
    before = consistent_reads(plane, "configmaps")
    for n in range(20):
        made = plane.create(path, config_map(f"m{n}", ""))
        assert identity(made) in versions(plane.rest.list(path)[0])
    after = consistent_reads(plane, "configmaps")
    if reference_under_test():  # apiserver does not trust etcd 3.5.1
        assert not after
    else:
        from_cache = ("true", "false")
        assert after.pop(from_cache) >= before.pop(from_cache, 0) + 20
        assert after == before


def consistent_reads(plane: Plane, resource: str) -> dict[tuple[str, str], int]:
    """(success, whether it had to ask etcd after all) → number of lists."""
    labels = f'fallback="(.*?)",.*?resource="{resource}",success="(.*?)"'
    printed = plane.control.kubectl("get", "--raw", "/metrics")
    found = re.findall(f"^{CONSISTENT_READS}{{{labels}}} (.*)$", printed, re.MULTILINE)
    return {(success, fallback): int(count) for fallback, success, count in found}


def watch_saw(watch: RestWatch, kind: str, objects: dict[str, str]) -> bool:
    """Wait until an event of this kind came for each object at just its version."""
    wanted = {(kind, name, version) for name, version in objects.items()}
    return wait_until(
        lambda: wanted <= watch.seen(), DEADLINE_SECONDS, f"the watch sees {len(wanted)} {kind}"
    )


def test_events_expire_by_their_lease(plane: Plane) -> None:
    path = f"{plane.namespace('expiring')}/events"
    with RestWatch(plane.rest, path) as watch:

        def event(n: int) -> Object:
            about = {"kind": "Pod", "namespace": "expiring", "name": f"p{n}"}
            return plane.rest.create(
                path, {"metadata": {"name": f"e{n}"}, "involvedObject": about, "reason": "Test"}
            )

        made = versions(everywhere(event, 50))
        assert watch_saw(watch, "ADDED", made)
        watch.wait_for({}, DEADLINE_SECONDS)
        assert len([1 for kind, *_ in watch.seen() if kind == "DELETED"]) == 50
    assert plane.rest.list(path)[0] == []


def test_a_continue_token_expires_by_compaction(plane: Plane) -> None:
    """410, with a token that goes on from the same key at the newest revision."""
    path = f"{plane.namespace('compacted')}/configmaps"
    everywhere(lambda n: plane.create(path, config_map(f"c{n:02}", "")), 30)
    first = plane.rest.get(path, limit=10)
    token = first["metadata"]["continue"]

    def expired() -> Object | None:
        plane.rest.patch(f"{path}/c00", {"data": {"key": f"{time.monotonic()}"}})
        try:
            plane.rest.get(path, limit=10, **{"continue": token})
        except ApiError as error:
            assert error.code == GONE, error
            return error.status
        return None

    status = wait_until(expired, DEADLINE_SECONDS, "the token expires")
    goes_on = plane.rest.get(path, limit=50, **{"continue": status["metadata"]["continue"]})
    names = [item["metadata"]["name"] for item in first["items"] + goes_on["items"]]
    assert names[:30] == [f"c{n:02}" for n in range(30)]  # others may be of controllers
    with pytest.raises(ApiError) as caught:
        plane.rest.list(
            path,
            resourceVersion=first["metadata"]["resourceVersion"],
            resourceVersionMatch="Exact",
        )
    assert caught.value.code == GONE


def test_pods_of_a_deployment_are_bound_while_the_leader_is_killed(plane: Plane) -> None:
    """Without controller-manager and scheduler: the deployment itself is kept."""
    pods = f"{plane.namespace('deployed')}/pods"
    path = "/apis/apps/v1/namespaces/deployed/deployments"
    made = plane.create(path, deployment(REPLICAS))
    plane.control.kubectl("rollout", "history", "deployment/web", "-n", "deployed")
    if not plane.controllers:
        print("KUBE_CONTROLLER_MANAGER and KUBE_SCHEDULER are not set: no pods are made")
        assert plane.rest.get(f"{path}/web")["metadata"]["uid"] == made["metadata"]["uid"]
        return

    with FakeNodes(plane.rest, 3):
        bound(plane.rest, pods, REPLICAS)
        killed = plane.cluster.leader()
        plane.cluster.kill(killed)
        again(lambda: plane.rest.patch(f"{path}/web", {"spec": {"replicas": 2 * REPLICAS}}))
        bound(plane.rest, pods, 2 * REPLICAS)
        plane.cluster.start(killed)
        plane.cluster.wait_healthy()
        again(lambda: plane.rest.patch(f"{path}/web", {"spec": {"replicas": 3 * REPLICAS}}))
        bound(plane.rest, pods, 3 * REPLICAS)


def bound(rest: Rest, pods: str, count: int) -> None:
    """Wait until `count` pods exist and the scheduler gave each a node."""

    def all_bound() -> bool:
        try:
            items, _ = rest.list(pods)
        except (ApiError, OSError, http.client.HTTPException):
            return False
        return len(items) == count and all(item["spec"].get("nodeName") for item in items)

    wait_until(all_bound, DEADLINE_SECONDS, f"{count} pods are bound")


def again(call: Callable[[], Any]) -> Any:
    """Repeat an idempotent call until apiserver carries it out."""

    def done() -> Any:
        try:
            return call()
        except (ApiError, OSError, http.client.HTTPException):
            return None

    return wait_until(done, DEADLINE_SECONDS, "apiserver carries out the call")


def test_nothing_acknowledged_is_lost_while_apiserver_and_the_leader_die(plane: Plane) -> None:
    """Writes go on all the while; a watch that reconnects ends with the same state."""
    path = f"{plane.namespace('faults')}/configmaps"
    stop = threading.Event()
    acknowledged: dict[str, str] = {}
    unsure: set[str] = set()

    def write(client: int) -> None:
        count = 0
        while not stop.is_set():
            count += 1
            name = f"f{client}-{count:05}"
            try:
                made = plane.create(path, config_map(name, "x"))
                acknowledged[identity(made)] = made["metadata"]["resourceVersion"]
                if count % 3 == 0:
                    made = plane.rest.patch(f"{path}/{name}", {"data": {"key": "y"}})
                    acknowledged[identity(made)] = made["metadata"]["resourceVersion"]
            except (ApiError, OSError, http.client.HTTPException):
                unsure.add(f"faults/{name}")  # that write may or may not have happened
                stop.wait(0.2)

    def more(count: int) -> None:
        goal = len(acknowledged) + count
        wait_until(lambda: len(acknowledged) >= goal, DEADLINE_SECONDS, "more writes")

    cluster, control = plane.cluster, plane.control
    with RestWatch(plane.rest, path) as watch, ThreadPoolExecutor(4) as pool:
        writing = [pool.submit(write, n) for n in range(4)]
        try:
            more(100)
            killed = cluster.leader()
            cluster.kill(killed)
            more(100)
            told_of(watch, dict(acknowledged))
            control.apiserver.stop()
            cluster.start(killed)
            plane.start_apiserver()
            more(100)
            cluster.kill(cluster.leader())
            more(100)
            control.apiserver.close()
            for i, member in enumerate(cluster.members):
                if not member.running:
                    cluster.start(i)
            plane.start_apiserver()
            more(100)
        finally:
            stop.set()
        for writer in writing:
            writer.result()
        there = versions(plane.rest.list(path, limit=PAGE)[0])
        lost = {
            name: there.get(name)
            for name, version in acknowledged.items()
            if there.get(name) != version and not (name in there and name in unsure)
        }
        assert not lost
        watch.wait_for(there)
    cluster.wait_healthy()


def told_of(watch: RestWatch, written: dict[str, str]) -> None:
    """Wait until the watch told every version, or until it was told to list anew."""

    def told() -> bool:
        seen = {(name, version) for _, name, version in watch.seen()}
        return bool(watch.relists or written.items() <= seen)

    wait_until(told, DEADLINE_SECONDS, "the watch tells what was written")


def test_a_namespace_and_all_in_it_is_deleted(plane: Plane) -> None:
    if not plane.controllers:
        pytest.skip("KUBE_CONTROLLER_MANAGER and KUBE_SCHEDULER are not set")
    plane.rest.create("/api/v1/namespaces", {"metadata": {"name": "doomed"}})
    path = "/api/v1/namespaces/doomed/configmaps"
    everywhere(lambda n: plane.rest.create(path, config_map(f"d{n}", "")), 100)
    plane.control.kubectl("delete", "namespace", "doomed", "--timeout=120s")
    prefix = b"/registry/configmaps/doomed/"
    assert plane.cluster.client(0).prefix(prefix, count_only=True).count == 0


def test_every_object_is_found_at_the_end(plane: Plane) -> None:
    """By apiserver after another restart, and the same on every member."""
    plane.namespace("last")
    plane.control.apiserver.stop()
    plane.start_apiserver()
    found = {
        f"{path}/{item['metadata']['name']}": item["metadata"]["uid"]
        for path in {path.rpartition("/")[0] for path in plane.kept}
        for item in plane.rest.list(path, limit=PAGE)[0]
    }
    print(f"{len(plane.kept)} objects must be there")
    lost = {path for path, uid in plane.kept.items() if found.get(path) != uid}
    assert not lost
    plane.cluster.wait_equal_hashes()
