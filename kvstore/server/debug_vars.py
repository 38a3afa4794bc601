"""/debug/vars: what this process is and where Raft stands, in the form of Go's expvar.

Only what is true of this program: of Go's ``memstats`` there are the address space taken from the
system and the number of garbage collections.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raft import Raft, Role

if TYPE_CHECKING:
    from kvstore.server.process import Server

_STATES = {
    Role.FOLLOWER: "StateFollower",
    Role.CANDIDATE: "StateCandidate",
    Role.LEADER: "StateLeader",
    Role.PRE_CANDIDATE: "StatePreCandidate",
}


def debug_vars(server: Server) -> bytes:
    """Return the body: a JSON object, one line for each variable, sorted by name."""
    values: dict[str, Any] = {
        "cmdline": sys.argv,
        "file_descriptor_limit": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "memstats": _memory(),
        "raft.status": _raft_status(server.member.raft),
    }
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in values.items()]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def _memory() -> dict[str, int]:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    collections = sum(generation["collections"] for generation in gc.get_stats())
    return {"Sys": pages * resource.getpagesize(), "NumGC": collections}


def _raft_status(raft: Raft) -> dict[str, Any]:
    """As etcd prints it; ids are hexadecimal. Only a leader knows the progress of others."""
    progress = {}
    if raft.role is Role.LEADER:
        for peer in (*raft.conf_state.voters, *raft.conf_state.learners):
            found = raft.progress(peer)
            if found is not None:
                state = "State" + found.state.name.title()
                progress[f"{peer:x}"] = {"match": found.match, "next": found.next, "state": state}
    return {
        "id": f"{raft.id:x}",
        "term": raft.term,
        "vote": f"{raft.vote:x}",
        "commit": raft.commit_index,
        "lead": f"{raft.leader:x}",
        "raftState": _STATES[raft.role],
        "applied": raft.applied_index,
        "progress": progress,
        "leadtransferee": f"{raft.transferee:x}",
    }
