"""Histories of a correct server, made up: what checkers accept, and what mutations start from."""

from __future__ import annotations

from random import Random
from typing import Any

from jepsen.history import Op, Outcome

OPEN = 0.1
FAILED = 0.05


def serve_registers(
    random: Random, count: int, *, clients: int = 5, keys: int = 3, unique: bool = True
) -> list[Op]:
    """Return `count` register operations of a server that takes effect at one moment within each.

    Some have open outcomes (whether they took effect is drawn), some failed for certain.
    """
    ops: list[Op] = []
    free_at = [0] * clients
    for number in range(count):
        client = min(range(clients), key=free_at.__getitem__)
        start = free_at[client] + random.randint(1, 20)
        end = start + random.randint(1, 60)
        free_at[client] = end
        key = f"k{random.randrange(keys)}"
        f = random.choice(("read", "read", "write", "cas"))
        fresh = number + 1 if unique else random.randint(1, 3)
        value: Any = None if f == "read" else fresh
        op = Op(client, "register", f, key, value, start, end, Outcome.OK)
        draw = random.random()
        if draw < OPEN:
            op.outcome = Outcome.INFO
        elif draw < OPEN + FAILED:
            op.outcome = Outcome.FAIL
        ops.append(op)
    _take_effect(random, ops)
    return sorted(ops, key=lambda op: op.start)


def _take_effect(random: Random, ops: list[Op]) -> None:
    state: dict[str, tuple[Any, int]] = {}
    revision = 1
    moments = sorted(((random.uniform(op.start, op.end), n) for n, op in enumerate(ops)))
    for _, number in moments:
        op = ops[number]
        happens = op.outcome is Outcome.OK or (op.outcome is Outcome.INFO and random.random() < 0.5)
        value, modified = state.get(op.key, (None, 0))
        result: Any = None
        if op.f == "read":
            result = [value, modified]
        elif op.f == "cas":
            wanted = value if random.random() < 0.7 else -1
            new, op.value = op.value, [wanted, op.value]
            result = wanted == value
            if happens and result:
                revision += 1
                state[op.key] = (new, revision)
        elif happens:
            revision += 1
            state[op.key] = (op.value, revision)
        if op.outcome is Outcome.OK:
            op.result, op.revision = result, revision
