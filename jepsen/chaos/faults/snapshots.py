"""A snapshot is taken under load, restored into a cluster of one, and compared.

It must hold every write that was acknowledged before it was asked for: a linearizable read before
tells the revision that it has to reach, and the hash at the snapshot's revision, on the cluster and
on what was restored, tells that nothing is missing or other. Restored by this package, whatever
program the cluster runs: a snapshot is a file that both understand.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from jepsen.chaos.faults.base import Done
from jepsen.chaos.faults.maintenance import Call
from jepsen.verdict import Finding
from kvstore.pb import rpc_pb2
from kvstore.testing import Cluster, MemberEnded, NotInTime

TIMEOUT_S: Final = 60.0
HASHES_OF: Final = ("3.5.", "3.6.")
"""Releases that hash as ours does; an earlier one is held to the revision alone."""

NO_PLACE: Final = (os.strerror(errno.ENOSPC), os.strerror(errno.EADDRINUSE))
"""What a program says when the machine had no room, or another had its port."""


class Refused(Exception):
    """A snapshot that was taken cannot be restored."""


class SnapshotRestore(Call):
    """Save a snapshot of one member, restore it beside the cluster, compare, throw it away."""

    name = "snapshot-restore"

    def begin(self) -> Done:
        number = self.random.choice(self.up())
        done = Done(self.names([number]))
        least = self._ask("KV/Range", rpc_pb2.RangeRequest(key=b"health"), rpc_pb2.RangeResponse())
        if least is None:
            return done
        folder = Path(tempfile.mkdtemp(prefix="restored-", dir=self.cluster.directory))
        try:
            self._save(number, folder / "snapshot.db")
            with Cluster(1, folder, links=False) as single:
                try:
                    restore(single, folder / "snapshot.db")
                except Refused as refused:
                    done.effect = done.checked = 1
                    done.findings.append(Finding("snapshot cannot be restored", str(refused)))
                else:
                    self._compare(single, least.header.revision, done)
        finally:
            if not done.findings:
                shutil.rmtree(folder)
        return done

    def _ask(self, method: str, request: object, response: object) -> Any:
        """Ask any member; None if none of them answers."""
        for number in self.up():
            answer = self.call(number, method, request, response)
            if answer is not None:
                return answer
        return None

    def _save(self, number: int, path: Path) -> None:
        """Raises grpc.RpcError."""
        call = self.cluster.channel(number).unary_stream(
            "/etcdserverpb.Maintenance/Snapshot",
            request_serializer=rpc_pb2.SnapshotRequest.SerializeToString,
            response_deserializer=rpc_pb2.SnapshotResponse.FromString,
        )
        with path.open("wb") as file:
            for response in call(rpc_pb2.SnapshotRequest(), timeout=TIMEOUT_S):
                file.write(response.blob)

    def _compare(self, single: Cluster, least: int, done: Done) -> None:
        revision = single.status(0, timeout_s=TIMEOUT_S).header.revision
        done.effect = done.checked = 1
        done.detail = f"revision {revision}"
        if revision < least:
            text = f"a snapshot asked for at revision {least} ends at {revision}"
            done.findings.append(Finding("snapshot lacks acknowledged writes", text))
            return
        version = self.cluster.status(self.up()[0], timeout_s=TIMEOUT_S).version
        request = rpc_pb2.HashKVRequest(revision=revision)
        ours = self._ask("Maintenance/HashKV", request, rpc_pb2.HashKVResponse())
        restored = SnapshotRestore(single, self.random)._ask(
            "Maintenance/HashKV", request, rpc_pb2.HashKVResponse()
        )
        if ours is None or restored is None or not version.startswith(HASHES_OF):
            return
        if ours.compact_revision != restored.compact_revision:
            done.detail += ", compacted meanwhile"
        elif ours.hash != restored.hash:
            text = f"at revision {revision} the cluster has hash {ours.hash}, not {restored.hash}"
            done.findings.append(Finding("restored snapshot differs", text))
        else:
            done.detail += ", same hash"


def restore(single: Cluster, snapshot: Path) -> None:
    """Let the one member serve what a snapshot holds.

    Raises:
        Refused: it does not take it.
        RuntimeError, NotInTime: the machine did not let it: that says nothing of the snapshot.
    """
    member = single.members[0]
    command = [
        *(sys.executable, "-m", "kvstore", "snapshot", "restore", str(snapshot)),
        f"--name={member.name}",
        f"--data-dir={member.data_dir}",
        f"--initial-cluster={member.name}={member.peer_url}",
        f"--initial-advertise-peer-urls={member.peer_url}",
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise NotInTime(f"the restore took longer than {TIMEOUT_S:g} s") from error
    if done.returncode:
        raise _why(f"restore failed: {done.stderr.strip()[-300:]}", done.stderr)
    try:
        single.start(timeout_s=TIMEOUT_S)
    except MemberEnded as ended:
        raise _why(str(ended), str(ended)) from ended


def _why(text: str, said: str) -> Exception:
    """Whether a program that ended was refused the snapshot's content, or a place to be."""
    lacking = any(reason.lower() in said.lower() for reason in NO_PLACE)
    return RuntimeError(text) if lacking else Refused(text)
