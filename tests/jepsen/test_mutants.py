"""The checkers can fail: broken servers are found, and nothing of them is left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jepsen.mutants import guard
from jepsen.mutants.cli import RESULTS, table
from jepsen.mutants.find import (
    INVARIANTS,
    MEMBER_FAILS,
    NEVER_CALLED,
    Outcome,
    half_of,
    hunt,
)
from jepsen.mutants.launch import FIRST_CALL
from jepsen.mutants.registry import Mutant, Patches, Sim, mutants
from jepsen.power.run import Kind
from kvstore.storage.wal_writer import WalWriter
from kvstore.testing import Cluster, MemberEnded

ROOT = Path(__file__).parents[2]
ALL = mutants()
QUICK = (
    "votes-for-a-shorter-log",
    "minority-commits",
    "follower-acknowledges-before-it-is-durable",
    "learners-commit",
    "reads-without-a-read-index",
    "proposal-sent-twice",
    "applied-index-ahead-of-the-data",
    "compaction-drops-a-live-value",
    "event-lost-when-a-stream-is-full",
    "leases-expire-early",
)
"""A slice through the topics; each is found within a few seeds."""


def everything() -> dict[tuple[str, str], object]:
    """What every class and module of the server holds now."""
    found: dict[tuple[str, str], object] = {}
    for name, module in sorted(sys.modules.items()):
        if name.split(".")[0] not in ("kvstore", "raft"):
            continue
        for attribute, value in vars(module).items():
            found[name, attribute] = tuple(value.items()) if attribute == "_TERMED" else value
            if isinstance(value, type) and value.__module__ == name:
                for inner, held in vars(value).items():
                    found[name, f"{attribute}.{inner}"] = held
    return found


@pytest.mark.parametrize("mutant", ALL.values(), ids=ALL)
def test_a_mutant_changes_the_server_and_takes_all_of_it_back(mutant: Mutant) -> None:
    with mutant.applied():  # imports what it needs
        pass
    before = everything()
    with mutant.applied():
        assert everything() != before or mutant.name in OUTSIDE
    after = everything()
    assert after.keys() == before.keys()
    left = [key for key in before if after[key] is not before[key] and after[key] != before[key]]
    assert left == []


OUTSIDE = ("backend-not-synced",)
"""What changes a library's function, which `everything` does not look at."""


def test_a_patch_of_what_is_gone_fails() -> None:
    patches = Patches()
    with pytest.raises(AttributeError):
        patches.set(Sim, "no_such_name", None)
    patches.undo()


def test_a_hunt_whose_patch_is_never_called_says_that_nothing_is_broken() -> None:
    """A refactoring that goes round a patch must not pass for a mutant that is hard to find."""

    def patch(patches: Patches) -> None:
        patches.set(WalWriter, "_write", lambda self, token, batches: None)  # none is simulated

    hunts = Sim(chaos_s=1.0, seeds=1)
    unused = Mutant("unused", "storage", "nothing", "none", ("liveness",), hunts, patch)
    outcome = hunt(unused)
    assert (outcome.by, outcome.expected, outcome.calls) == ("", False, 0)
    assert NEVER_CALLED in outcome.text


def test_the_last_hunts_saw_every_patch_at_work() -> None:
    """What `docs/mutants.json` keeps of them; older ones did not count, nor is a number counted."""
    last = {found["mutant"]: found for found in json.loads((ROOT / RESULTS).read_text())}
    for mutant in ALL.values():
        assert last[mutant.name].get("calls") != 0, mutant.name
    assert last.keys() == ALL.keys()


def test_there_are_enough_mutants_and_each_says_what_it_breaks() -> None:
    halves = [half_of(mutant) for mutant in ALL.values()]
    assert len(halves) >= 100
    assert {"sim", "chaos", "power"} == set(halves)
    invariants = {name for name, _ in INVARIANTS} | {MEMBER_FAILS}
    for mutant in ALL.values():
        assert mutant.breaks, mutant.name
        assert mutant.item, mutant.name
        assert mutant.told_by, mutant.name
        if isinstance(mutant.hunt, Sim):
            assert set(mutant.told_by) <= invariants, mutant.name
        else:
            assert all(": " in told for told in mutant.told_by), mutant.name


def test_power_cuts_can_say_what_mutants_are_told_by() -> None:
    said = {f"power: {kind.value}" for kind in Kind}
    told = {by for mutant in ALL.values() for by in mutant.told_by if by.startswith("power: ")}
    assert told
    assert told <= said


@pytest.mark.parametrize("name", QUICK)
def test_the_simulation_finds_what_is_broken(name: str) -> None:
    """By the right words: a run that fails for another reason proves nothing."""
    outcome = hunt(ALL[name], budget_s=30.0)
    assert outcome.by in ALL[name].told_by, outcome


def test_a_broken_member_runs_as_a_process_and_says_so(tmp_path: Path) -> None:
    program = (sys.executable, "-m", "jepsen.mutants", "header-revision-lags", "server")
    with Cluster(1, tmp_path, program=program) as cluster:
        cluster.start()
        log = cluster.members[0].log_path.read_text()
    assert "broken on purpose: header-revision-lags" in log
    assert f"{FIRST_CALL}HeaderEncoder.encode" in log


def test_an_installed_release_refuses_to_be_broken(tmp_path: Path) -> None:
    """The same packages from a site-packages folder: the launcher and the hunt both refuse."""
    site = tmp_path / "lib" / "site-packages"
    for package in ("kvstore", "raft", "jepsen"):
        shutil.copytree(
            ROOT / package, site / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    for words in (
        ["jepsen.mutants", "votes-twice", "server", "--version"],
        ["jepsen", "mutants", "votes-twice"],
        ["jepsen", "chaos", "--mutant", "votes-twice", "--out", str(tmp_path / "run")],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2, done
        assert "from a source checkout only" in done.stderr


def test_a_source_checkout_is_told_by_its_files(tmp_path: Path) -> None:
    guard.require_source_checkout()
    with pytest.raises(guard.Refused):
        guard.require_source_checkout(tmp_path)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "tests").mkdir()
    guard.require_source_checkout(tmp_path)


def test_an_unknown_mutant_is_refused_with_the_known_ones() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jepsen.mutants", "no-such", "server"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 2
    assert "votes-twice" in done.stderr


def test_the_table_says_honestly_what_was_not_found() -> None:
    names = ("votes-twice", "minority-commits", "log-not-synced")
    past = {
        names[0]: Outcome(names[0], "sim", "", 60, 61.2),
        names[1]: Outcome(names[1], "sim", "durable on a quorum", 2, 1.25, "text"),
    }
    text = table({name: ALL[name] for name in names}, past)
    assert "1 of 3 mutants are found, median 1.2 s." in text
    assert "**not found** | 60 seeds, 61 s" in text
    assert "sim: durable on a quorum | 2 seeds, 1.2 s" in text
    assert "not looked for" in text


def test_a_member_that_is_not_broken_does_not_start_under_a_wrong_name(tmp_path: Path) -> None:
    program = (sys.executable, "-m", "jepsen.mutants", "no-such", "server")
    with Cluster(1, tmp_path, program=program) as cluster, pytest.raises(MemberEnded):
        cluster.start()
