"""What a mutant is, and the table of all.

The trade-off: mutants are functions that patch, not copies of the source with a line changed, so
they follow most refactorings and can live in one process with the simulator; a patch whose target
is gone fails loudly.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

TOPICS: Final = ("elections", "log", "members", "reads", "node", "storage", "mvcc", "txn", "watch",
                 "lease", "server")  # fmt: skip
"""Modules of this package that hold mutants, in the order of the table."""

_ABSENT: Final = object()


class Patches:
    """Changes to classes, modules and tables, which `undo` takes back in reverse order.

    Attributes:
        calls: how often each patched function was called: a mutant none of whose functions is ever
            called breaks nothing. (A patched number is not seen to be used.)
    """

    def __init__(self, on_first_call: Callable[[str], None] = lambda name: None) -> None:
        """Args: on_first_call: gets the name of each patch when it is first called."""
        self.calls: dict[str, int] = {}
        self._on_first_call = on_first_call
        self._undo: list[Callable[[], None]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Replace an attribute of a class or module. Raises AttributeError if there is none."""
        getattr(owner, name)
        old = vars(owner).get(name, _ABSENT)
        self._undo.append(
            lambda: delattr(owner, name) if old is _ABSENT else setattr(owner, name, old)
        )
        setattr(owner, name, self._counted(f"{_name_of(owner)}.{name}", value))

    def around(self, owner: Any, name: str) -> Callable[[Callable[..., Any]], None]:
        """Decorate a function(original, *arguments) that is to stand in the original's place."""

        def replace(instead: Callable[..., Any]) -> None:
            self.set(owner, name, _calls(instead, getattr(owner, name)))

        return replace

    def instead(self, owner: Any, name: str) -> Callable[[Callable[..., Any]], None]:
        """Decorate a function that is to stand in the original's place, without need of it."""
        return lambda function: self.set(owner, name, function)

    def around_item(
        self, table: MutableMapping[Any, Any], key: Any
    ) -> Callable[[Callable[..., Any]], None]:
        """`around` for an entry of a dispatch table."""

        def replace(instead: Callable[..., Any]) -> None:
            old = table[key]
            self._undo.append(lambda: table.__setitem__(key, old))
            table[key] = self._counted(str(key), _calls(instead, old))

        return replace

    def _counted(self, name: str, value: Any) -> Any:
        if isinstance(value, property):
            return property(self._counted(name, value.fget))
        if not callable(value):
            return value
        self.calls[name] = 0

        @functools.wraps(value)
        def counted(*arguments: Any, **named: Any) -> Any:
            self.calls[name] += 1
            if self.calls[name] == 1:
                self._on_first_call(name)
            return value(*arguments, **named)

        return counted

    def undo(self) -> None:
        """Take everything back."""
        while self._undo:
            self._undo.pop()()


def _calls(instead: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def patched(*arguments: Any, **named: Any) -> Any:
        return instead(original, *arguments, **named)

    return patched


def _name_of(owner: Any) -> str:
    return str(owner.__name__).rpartition(".")[2]


@dataclass(frozen=True, slots=True)
class Sim:
    """How the simulation looks for it; see `jepsen.mutants.hunt`."""

    members: int = 3
    changes: bool = False
    """Whether members come and go."""
    chaos_s: float = 20.0
    """Virtual seconds of faults."""
    faults: tuple[str, ...] = ()
    """Only these kinds, and all the time; (): whatever a seed draws."""
    every_s: float = 0.4
    """Mean pause between those."""
    clients: int = -1
    """-1: drawn. Few make a seed cheap where the clients do not matter."""
    transactors: int = 1
    """Clients of many-key requests (`jepsen.sim.transactions`)."""
    watchers: int = -1
    """-1: as many as in any run. None where they do not matter."""
    crash_at_votes: bool = False
    """Members crash around the time at which a vote of theirs becomes durable."""
    files: bool = False
    """Whether each seed runs on real files, not one in four."""
    adversary: str = ""
    """A function of `jepsen.mutants.adversaries`, in the place of chance faults and all clients."""
    pre_vote: bool = True
    """Without it, which safety must not need, there are far more rivals in one term."""
    seeds: int = 300
    """Most seeds to try."""


@dataclass(frozen=True, slots=True)
class Chaos:
    """How a run on real processes looks for it."""

    workloads: tuple[str, ...]
    faults: tuple[str, ...]
    seconds: float = 20.0
    """Of faults, in one run."""
    size: int = 3
    fault_s: float = 2.0
    pause_s: float = 1.0
    flags: tuple[str, ...] = ()
    runs: int = 3


def aimed(adversary: str) -> Sim:
    """A hunt by one adversary."""
    return Sim(adversary=adversary, clients=0, transactors=0, watchers=0, pre_vote=False)


@dataclass(frozen=True, slots=True)
class Power:
    """How power cuts look for it."""

    cuts: int = 15
    size: int = 3


@dataclass(frozen=True, slots=True)
class Mutant:
    """One broken server.

    Attributes:
        breaks: the promise that it breaks.
        item: the semantics item, scenario of docs/reliability.md, or section of the Raft paper.
        told_by: what may be said of it: names of invariants (`find.INVARIANTS`), or
            ``checker: kind of finding``. Anything else that is said is no catch, but a mistake.
        hunt: which half has to find it, and how.
    """

    name: str
    topic: str
    breaks: str
    item: str
    told_by: tuple[str, ...]
    hunt: Sim | Chaos | Power
    patch: Callable[[Patches], None]

    @contextmanager
    def applied(
        self, on_first_call: Callable[[str], None] = lambda name: None
    ) -> Iterator[Patches]:
        """Break the classes of this process for a while."""
        patches = Patches(on_first_call)
        try:
            self.patch(patches)
            yield patches
        finally:
            patches.undo()


_MUTANTS: Final[dict[str, Mutant]] = {}


def mutant(
    breaks: str,
    item: str,
    *told_by: str,
    hunt: Sim | Chaos | Power | None = None,
) -> Callable[[Callable[[Patches], None]], Callable[[Patches], None]]:
    """Register the function as a mutant under its own name, with dashes."""

    def register(patch: Callable[[Patches], None]) -> Callable[[Patches], None]:
        name = patch.__name__.replace("_", "-")
        assert name not in _MUTANTS, name
        topic = patch.__module__.rpartition(".")[2]
        _MUTANTS[name] = Mutant(name, topic, breaks, item, told_by, hunt or Sim(), patch)
        return patch

    return register


def mutants() -> dict[str, Mutant]:
    """All of them by name, topic by topic."""
    for topic in TOPICS:
        importlib.import_module(f"jepsen.mutants.{topic}")
    order = {topic: number for number, topic in enumerate(TOPICS)}
    return dict(sorted(_MUTANTS.items(), key=lambda pair: order[pair[1].topic]))
