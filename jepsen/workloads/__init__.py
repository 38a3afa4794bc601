"""What clients do in a run, by name."""

from jepsen.workloads.append import Append
from jepsen.workloads.base import Workload
from jepsen.workloads.kube import Kube
from jepsen.workloads.leases import Lease, Lock
from jepsen.workloads.register import Register
from jepsen.workloads.sets import Bank, Set
from jepsen.workloads.watch import Watch

WORKLOADS: dict[str, type[Workload]] = {
    kind.name: kind for kind in (Register, Append, Set, Bank, Watch, Lease, Lock, Kube)
}

__all__ = ["WORKLOADS", "Workload"]
