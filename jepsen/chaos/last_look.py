"""What is looked at behind a run besides the history: the members' hashes and logs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jepsen.chaos.client import Connection, Failed
from jepsen.chaos.faults import Done
from jepsen.verdict import Finding, Validity, Verdict
from kvstore.testing import Cluster

_CRASH = re.compile(
    rb"Traceback \(most recent call last\)|\"level\":\"(?:fatal|critical|panic)\""
    rb"|^panic: .*|^fatal error: .*",  # what Go prints
    re.MULTILINE,
)


async def compare_hashes(connections: Sequence[Connection]) -> Verdict:
    """Equal revision and equal compaction, equal hash (JEP-11)."""
    try:
        revision = (await connections[0].call("range", key=b"health")).header.revision
        for connection in connections:  # each member applies what is there
            await connection.call("range", key=b"health", timeout_s=30.0)
        answers = [
            await connection.call("hash_kv", revision=revision, timeout_s=60.0)
            for connection in connections
        ]
    except Failed as failure:
        return Verdict("hashes", Validity.UNKNOWN, note=str(failure))
    hashes = {(a.hash, a.compact_revision) for a in answers}
    if len({compacted for _, compacted in hashes}) > 1:
        return Verdict("hashes", Validity.UNKNOWN, note="a compaction came in between")
    if len(hashes) > 1:
        text = f"members differ at revision {revision}: {sorted(hashes)}"
        return Verdict("hashes", Validity.INVALID, 0, [Finding("members differ", text)])
    return Verdict("hashes", Validity.VALID, len(answers))


def scan_logs(cluster: Cluster, done: Sequence[Done], ended: Sequence[Finding]) -> Verdict:
    """No member printed a traceback or a fatal error, or ended, without being meant to.

    Args:
        done: faults, which say what they excuse.
        ended: members that were found to have ended by themselves.
    """
    findings = list(ended)
    excused = [excuse for fault in done for excuse in fault.excused]
    for member in cluster.members:
        log = bytearray(member.log_path.read_bytes())
        for path, start, end in excused:
            if path == member.log_path:
                log[start:end] = bytes(end - start)
        if found := _CRASH.search(log):
            text = f"{member.name}: {found[0].decode()}"
            findings.append(Finding("crash in the log", text))
    validity = Validity.INVALID if findings else Validity.VALID
    return Verdict("logs", validity, len(cluster.members), findings)


def faults_found(done: Sequence[Done]) -> list[Verdict]:
    """What faults looked at by themselves, such as snapshots; nothing if none did."""
    findings = [finding for fault in done for finding in fault.findings]
    checked = sum(fault.checked for fault in done)
    if not (findings or checked):
        return []
    validity = Validity.INVALID if findings else Validity.VALID
    return [Verdict("faults", validity, checked, findings)]
