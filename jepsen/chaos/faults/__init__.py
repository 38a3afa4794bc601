"""The nemesis: faults on real processes, by name, in the order in which they are listed.

A missing privilege or tool leaves a fault out with one line that says so, never silently.
"""

from jepsen.chaos.faults import (
    clients,
    clocks,
    damage,
    disks,
    links,
    maintenance,
    members,
    processes,
    snapshots,
)
from jepsen.chaos.faults.base import Done, Fault

FAULTS: dict[str, type[Fault]] = {
    kind.name: kind
    for kind in (
        processes.KillOne,
        processes.KillLeader,
        processes.KillMajority,
        processes.KillAll,
        processes.Terminate,
        processes.Pause,
        processes.PauseLeader,
        links.PartitionHalves,
        links.IsolateLeader,
        links.PartitionOneWay,
        links.PartitionRing,
        links.PartitionBridge,
        links.SlowLinks,
        links.LossyLinks,
        links.FlappingLinks,
        links.HalfOpen,
        links.Resets,
        clients.ClientCut,
        clients.ClientMute,
        clients.ClientSlow,
        clients.ClientReset,
        clocks.WallClock,
        clocks.ClockDrift,
        disks.SlowDisk,
        disks.SlowSync,
        disks.FailingSync,
        disks.FullDisk,
        damage.TornLog,
        damage.DamagedBackend,
        damage.DamagedLog,
        members.AddMember,
        members.RemoveMember,
        members.ReplaceMember,
        maintenance.MoveLeader,
        maintenance.Compact,
        maintenance.Defragment,
        snapshots.SnapshotRestore,
    )
}

__all__ = ["FAULTS", "Done", "Fault"]
