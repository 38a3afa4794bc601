"""Random protobuf messages of etcd's types, by their descriptors."""

from __future__ import annotations

from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor as F
from google.protobuf.message import Message
from hypothesis import strategies as st

from kvstore.gateway.routes import ROUTES

MESSAGES = sorted(
    {m for route in ROUTES.values() for m in (route.request, route.response)},
    key=lambda m: m.DESCRIPTOR.full_name,
)
"""All request and response classes of the gateway."""

_INTEGERS = {
    F.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    F.TYPE_UINT32: st.integers(0, 2**32 - 1),
    F.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    F.TYPE_UINT64: st.integers(0, 2**64 - 1),
}
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def _value(field: Any, depth: int) -> st.SearchStrategy[Any]:
    if field.type in _INTEGERS:
        return _INTEGERS[field.type]
    if field.type == F.TYPE_BYTES:
        return st.binary(max_size=12)
    if field.type == F.TYPE_STRING:
        return _TEXT
    if field.type == F.TYPE_BOOL:
        return st.booleans()
    if field.type == F.TYPE_ENUM:
        return st.sampled_from([value.number for value in field.enum_type.values])
    return messages(field.message_type, depth + 1)


def messages(descriptor: Any, depth: int = 0) -> st.SearchStrategy[Message]:
    """Messages of a type: any fields set, at most one of a oneof, three messages deep."""

    @st.composite
    def build(draw: st.DrawFn) -> Message:
        values, oneofs = {}, set()
        for field in descriptor.fields:
            if field.type == F.TYPE_MESSAGE and depth >= 3:
                continue
            oneof = field.containing_oneof and field.containing_oneof.name
            if oneof in oneofs or not draw(st.booleans()):
                continue
            if oneof:
                oneofs.add(oneof)
            one = _value(field, depth)
            values[field.name] = draw(st.lists(one, max_size=3) if field.is_repeated else one)
        return message_factory.GetMessageClass(descriptor)(**values)

    return build()


def any_message() -> st.SearchStrategy[Message]:
    """A message of any of `MESSAGES`."""
    return st.sampled_from(MESSAGES).flatmap(lambda m: messages(m.DESCRIPTOR))
