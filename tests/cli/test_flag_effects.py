"""Every implemented flag is set by a test that looks at what a running server then does.

It can only be told that such a test names the flag; what it shows is the test's own business.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kvstore.cli.flag_table import FLAGS, Flag, Status

TESTS = Path(__file__).parents[1]
RUNNING = ("e2e", "kube", "testing", "clients")
"""Folders whose tests start servers."""

SOURCES = {
    path.relative_to(TESTS).as_posix(): path.read_text()
    for folder in RUNNING
    for path in (TESTS / folder).rglob("*.py")
}
ELSEWHERE = {
    "version": "cli/test_commands.py",
    "raft-write-timeout": "cli/test_socket_flags.py",
}
"""Flags whose effect is seen without a cluster."""


@pytest.mark.parametrize(
    "flag", [f for f in FLAGS if f.status is Status.IMPLEMENTED], ids=lambda flag: flag.name
)
def test_a_test_with_a_running_server_sets_it(flag: Flag) -> None:
    named = re.compile(rf"(--|\}}){re.escape(flag.name)}(?![-\w])")
    if flag.name in ELSEWHERE:
        assert named.search((TESTS / ELSEWHERE[flag.name]).read_text())
    else:
        assert any(named.search(source) for source in SOURCES.values())
