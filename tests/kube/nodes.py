"""Nodes without machines: objects that stay Ready, so that the scheduler binds pods to them.

What lives here: a Node and its Lease for each, and the heartbeat that a kubelet would send. What
may not: running pods; a bound pod stays Pending.
"""

from __future__ import annotations

import datetime
import http.client
import threading

from tests.kube.rest import ApiError, Object, Rest

HEARTBEAT_SECONDS = 5.0
LEASE_SECONDS = 40
RESOURCES = {"cpu": "64", "memory": "256Gi", "pods": "500"}
_NODES = "/api/v1/nodes"
_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


class FakeNodes:
    """`count` nodes that are Ready while the context is open."""

    def __init__(self, rest: Rest, count: int) -> None:
        self._rest = rest
        self._names = [f"fake-{n}" for n in range(count)]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> FakeNodes:
        for name in self._names:
            self._rest.create(_NODES, {"metadata": {"name": name}})
            spec = {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS}
            self._rest.create(_LEASES, {"metadata": {"name": name}, "spec": spec})
            self._ready(name)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ready(self, name: str) -> None:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
        condition: Object = {
            "type": "Ready",
            "status": "True",
            "reason": "Fake",
            "message": "",
            "lastHeartbeatTime": f"{now}Z",
            "lastTransitionTime": f"{now}Z",
        }
        status = {"capacity": RESOURCES, "allocatable": RESOURCES, "conditions": [condition]}
        self._rest.patch(f"{_NODES}/{name}/status", {"status": status})
        self._rest.patch(f"{_LEASES}/{name}", {"spec": {"renewTime": f"{now}.000000Z"}})

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            for name in self._names:
                try:
                    self._ready(name)
                except (ApiError, OSError, http.client.HTTPException):
                    continue  # a kubelet tries again at its next heartbeat, too
