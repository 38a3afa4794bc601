"""The feature gates of etcd: which there are, and which of them mean something here.

A gate without meaning is accepted, so that a script that sets it still starts the server; `INERT`
says why it has none, and the server logs that when one is switched from its default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

STOP_GRPC_SERVICE_ON_DEFRAG: Final = "StopGRPCServiceOnDefrag"
INITIAL_CORRUPT_CHECK: Final = "InitialCorruptCheck"
COMPACT_HASH_CHECK: Final = "CompactHashCheck"
LEASE_CHECKPOINT: Final = "LeaseCheckpoint"
LEASE_CHECKPOINT_PERSIST: Final = "LeaseCheckpointPersist"

ALPHA: Final = "alpha"
BETA: Final = "beta"
ALL: Final[Mapping[str, str]] = {"AllAlpha": ALPHA, "AllBeta": BETA}
"""Gates that switch all gates of a stage which are not set themselves."""


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate: whether it is on by default, and its stage."""

    default: bool
    stage: str


GATES: Final[Mapping[str, Gate]] = {
    STOP_GRPC_SERVICE_ON_DEFRAG: Gate(False, ALPHA),
    INITIAL_CORRUPT_CHECK: Gate(False, ALPHA),
    COMPACT_HASH_CHECK: Gate(False, ALPHA),
    "TxnModeWriteWithSharedBuffer": Gate(True, BETA),
    LEASE_CHECKPOINT: Gate(False, ALPHA),
    LEASE_CHECKPOINT_PERSIST: Gate(False, ALPHA),
    "SetMemberLocalAddr": Gate(False, ALPHA),
    "FastLeaseKeepAlive": Gate(True, BETA),
    "PriorityRequest": Gate(False, ALPHA),
}

INERT: Final[Mapping[str, str]] = {
    "TxnModeWriteWithSharedBuffer": "transactions are planned before they write",
    LEASE_CHECKPOINT_PERSIST: "checkpoints are always stored, as in a cluster of version 3.6",
    "SetMemberLocalAddr": "the system chooses the address of outgoing connections",
    "FastLeaseKeepAlive": "every renewal confirms the leadership",
    "PriorityRequest": "revocations are proposed like other requests",
}
"""Gates without effect here, and why."""


def enabled_gates(given: Mapping[str, bool]) -> frozenset[str]:
    """Return the names of all gates that are on, once those `given` (of GATES and ALL) are set."""
    state = {name: gate.default for name, gate in GATES.items()}
    for everything, stage in ALL.items():
        if everything in given:
            state |= {n: given[everything] for n, gate in GATES.items() if gate.stage == stage}
    state |= {name: value for name, value in given.items() if name in GATES}
    return frozenset(name for name, value in state.items() if value)


DEFAULT_GATES: Final = enabled_gates({})


def without_effect(gates: frozenset[str]) -> list[str]:
    """Return what to say about gates that were switched from their default to no effect."""
    return [
        f"feature gate {name} has no effect in this server: {reason}"
        for name, reason in INERT.items()
        if (name in gates) != GATES[name].default
    ]
