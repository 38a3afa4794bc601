"""The replicated alarms: which member reported NOSPACE or CORRUPT, and what is refused meanwhile.

An alarm is raised and disarmed by a log entry, so every member refuses the same entries (MNT-08);
no member's own disk or configuration is looked at here. The trade-off: one damaged or full member
stops the writes of the whole cluster, and in return members never diverge over it.

Layout of the backend's ALARMS table: key = alarm type u32 big-endian | member id u64 big-endian,
value = the serialized ``etcdserverpb.AlarmMember``. A scan is in the order that GET answers.
"""

from __future__ import annotations

import struct
from typing import Final

from kvstore.errors import CORRUPT, NO_SPACE
from kvstore.pb import rpc_pb2
from kvstore.pb.rpc_pb2 import AlarmRequest
from kvstore.storage.backend import ALARMS, Backend

TYPES: Final = (rpc_pb2.NOSPACE, rpc_pb2.CORRUPT)
"""The alarms there are. (etcd 3.5 ends its process on any other that is raised.)"""

_KEY: Final = struct.Struct(">IQ")


class Alarms:
    """What is raised; read freely, changed only by applied entries.

    Attributes:
        nospace, corrupt: whether any member has that alarm.
        raised: whether any alarm is: one look for the hot path.
    """

    __slots__ = ("_active", "_backend", "corrupt", "nospace", "raised")

    def __init__(self, backend: Backend) -> None:
        """Load what `backend` holds. Raises CorruptBackend."""
        self.restore(backend)

    def restore(self, backend: Backend) -> None:
        """Read everything again, after a snapshot replaced the backend."""
        self._backend = backend
        self._active = {_KEY.unpack(key) for key, _ in backend.scan(ALARMS, b"", None)}
        self._summarize()

    def active(self, alarm: int = rpc_pb2.NONE) -> list[tuple[int, int]]:
        """Return (member id, alarm type) of all alarms, or of one type, by type and member."""
        return [
            (member_id, kind)
            for kind, member_id in sorted(self._active)
            if alarm in (rpc_pb2.NONE, kind)
        ]

    def has(self, member_id: int, alarm: int) -> bool:
        """Tell whether exactly this alarm is raised."""
        return (alarm, member_id) in self._active

    def refuse(self, *, grows: bool) -> None:
        """Refuse a write while an alarm is raised; called only then (MNT-09..11).

        Args:
            grows: it puts something or grants a lease, so NOSPACE refuses it too.

        Raises:
            EtcdError: CORRUPT, NO_SPACE.
        """
        if self.corrupt:
            raise CORRUPT
        if grows and self.nospace:
            raise NO_SPACE

    def apply(self, request: AlarmRequest) -> list[tuple[int, int]]:
        """Carry out an Alarm request and return the alarms to answer with (MNT-05..07).

        A type or action that is not known does nothing: it is refused before it is proposed, and
        once in the log every member must pass over it alike.
        """
        member_id, alarm = request.memberID, request.alarm
        if request.action == AlarmRequest.GET:
            return self.active(alarm)
        if request.action == AlarmRequest.ACTIVATE and alarm in TYPES:
            self._activate(member_id, alarm)
            return [(member_id, alarm)]
        if request.action == AlarmRequest.DEACTIVATE and self.has(member_id, alarm):
            self._deactivate(member_id, alarm)
            return [(member_id, alarm)]
        return []

    def _activate(self, member_id: int, alarm: int) -> None:
        if self.has(member_id, alarm):
            return
        self._active.add((alarm, member_id))
        member = rpc_pb2.AlarmMember(memberID=member_id, alarm=rpc_pb2.AlarmType.Name(alarm))
        self._backend.put(ALARMS, _KEY.pack(alarm, member_id), member.SerializeToString())
        self._summarize()

    def _deactivate(self, member_id: int, alarm: int) -> None:
        self._active.remove((alarm, member_id))
        self._backend.delete(ALARMS, _KEY.pack(alarm, member_id))
        self._summarize()

    def _summarize(self) -> None:
        kinds = {kind for kind, _ in self._active}
        self.nospace = rpc_pb2.NOSPACE in kinds
        self.corrupt = rpc_pb2.CORRUPT in kinds
        self.raised = bool(kinds)


def alarm_text(member_id: int, alarm: int) -> str:
    """Return an alarm as Status tells it (MNT-03): a zero is left out, a blank ends each field."""
    member = f"memberID:{member_id} " if member_id else ""
    return f"{member}alarm:{rpc_pb2.AlarmType.Name(alarm)} "
