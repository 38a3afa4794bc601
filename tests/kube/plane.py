"""What the tests with the real apiserver share: the running whole, and the objects they make.

What lives here: `Plane`, which remembers what must be there at the end, and the bodies of objects.
What may not: what is promised of them; that is in the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.e2e.cluster import Cluster
from tests.kube.control_plane import ControlPlane
from tests.kube.rest import Object, Rest

CLIENTS = 8

CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.test.example"},
    "spec": {
        "group": "test.example",
        "scope": "Namespaced",
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "properties": {"size": {"type": "integer"}},
                            }
                        },
                    }
                },
            }
        ],
    },
}


class Plane:
    """The cluster, the control plane over it, and what it acknowledged to hold."""

    def __init__(self, cluster: Cluster, control: ControlPlane, controllers: bool) -> None:
        self.cluster = cluster
        self.control = control
        self.controllers = controllers
        self.rest = Rest(control.credentials)
        self.kept: dict[str, str] = {}
        """Path of every object that must be there at the end → its uid."""

    def start_apiserver(self) -> None:
        """Start it again; kept connections are to the one before."""
        self.control.start_apiserver()
        self.rest.forget_connections()

    def create(self, path: str, body: Object) -> Object:
        """Create an object that stays."""
        made = self.rest.create(path, body)
        self.kept[f"{path}/{made['metadata']['name']}"] = made["metadata"]["uid"]
        return made

    def namespace(self, name: str) -> str:
        """Create a namespace; the path of its objects."""
        self.create("/api/v1/namespaces", {"metadata": {"name": name}})
        return f"/api/v1/namespaces/{name}"


def config_map(name: str, value: str) -> Object:
    return {"metadata": {"name": name}, "data": {"key": value}}


def everywhere(work: Callable[[int], Any], count: int) -> list[Any]:
    """`work(0..count-1)` by several threads."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(work, range(count)))


def deployment(replicas: int) -> Object:
    labels = {"app": "web"}
    container = {"name": "web", "image": "none.invalid/web:1"}
    return {
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }
