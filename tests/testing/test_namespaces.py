"""Clusters in a network of the kernel's, whose faults are rules of nftables: run inside of one."""

from __future__ import annotations

import ast
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from kvstore.testing.namespaces import NamespaceError, Namespaces
from tests.testing.nft import why_not

INSIDE = Path(__file__).with_name("inside_namespaces.py")
UNSHARE = ("unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
"""No member outlives it."""
HANG_S = 900.0
NAMES = [
    node.name
    for node in ast.parse(INSIDE.read_text()).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
]


@pytest.fixture(scope="module")
def told() -> str:
    """What pytest says of them, and that the machine's own network is as it was."""
    why = why_not()
    if why:
        pytest.skip(why)
    before = socket.if_nameindex()
    pytest_inside = (sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider")
    done = subprocess.run(
        [*UNSHARE, *pytest_inside, str(INSIDE)],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert socket.if_nameindex() == before
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_inside(told: str, name: str) -> None:
    outcomes = re.findall(rf"^(\w+) \S+::{name}\b", told, re.MULTILINE)
    assert set(outcomes) == {"PASSED"}, told


def test_the_network_of_the_machine_is_refused() -> None:
    if [name for _, name in socket.if_nameindex()] == ["lo"]:
        pytest.skip("this machine has no interface but lo")
    with pytest.raises(NamespaceError, match="not in a network namespace of its own"):
        Namespaces()
