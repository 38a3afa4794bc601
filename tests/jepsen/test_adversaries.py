"""Adversaries reach their patterns, the sound server passes them, and the broken ones do not."""

from __future__ import annotations

import inspect

import pytest

from jepsen.mutants import adversaries
from jepsen.mutants.find import hunt
from jepsen.mutants.registry import Mutant, Sim, aimed, mutants
from jepsen.mutants.simulation import simulate
from jepsen.mutants.stage import HAZARD

ADVERSARIES = sorted(
    name
    for name, function in vars(adversaries).items()
    if inspect.isfunction(function)
    and function.__module__ == adversaries.__name__
    and not name.startswith("_")
)
AIMED = [m for m in mutants().values() if isinstance(m.hunt, Sim) and m.hunt.adversary]


@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_the_sound_server_passes_and_the_pattern_was_there(adversary: str) -> None:
    """In each seed; `simulate` raises Violation for any broken promise."""
    for seed in range(3):
        assert simulate(seed, aimed(adversary)).counts.get(HAZARD, 0) > 0, seed


@pytest.mark.parametrize("mutant", AIMED, ids=lambda mutant: str(mutant.name))
def test_the_broken_server_is_found_whatever_the_first_seed(mutant: Mutant) -> None:
    """Within a third of the budget, and by the right words."""
    for first_seed in (0, 1000, 2000):
        outcome = hunt(mutant, first_seed=first_seed, budget_s=20.0)
        assert outcome.by in mutant.told_by, outcome


def test_every_adversary_hunts_a_mutant() -> None:
    hunting = [m.hunt.adversary for m in AIMED if isinstance(m.hunt, Sim)]
    assert sorted(set(hunting)) == ADVERSARIES
