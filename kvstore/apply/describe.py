"""Requests as one line of a log: keys and options, never values.

Values may be secrets or megabytes, so what is called ``value`` is told by its size, as in etcd. The
form is etcd's: ``key:"foo" value_size:3``, messages inside as ``name:<... >``.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

MAX_DESCRIPTION: Final = 1000
"""Longest description, characters; a transaction of a thousand operations is cut."""


def describe(message: Message) -> str:
    """Return one line about a request."""
    text = _fields(message)
    return text if len(text) <= MAX_DESCRIPTION else text[:MAX_DESCRIPTION] + "..."


def _fields(message: Message) -> str:
    return " ".join(
        _field(field, one)
        for field, value in message.ListFields()
        for one in (value if field.is_repeated else (value,))
    )


def _field(field: FieldDescriptor, value: Any) -> str:
    if field.message_type is not None:
        return f"{field.name}:<{_fields(value)} >"
    if field.type == FieldDescriptor.TYPE_BYTES:
        if field.name == "value":
            return f"value_size:{len(value)}"
        return f'{field.name}:"{value.decode("utf-8", "backslashreplace")}"'
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return f"{field.name}:{value if known is None else known.name}"
    if isinstance(value, bool):
        return f"{field.name}:{str(value).lower()}"
    return f"{field.name}:{value}"
