"""Interaction scripts: whole conversations, written down and compared line by line.

After a wanted change, `pytest tests/raft/test_raft_scripts.py --rewrite-scripts` writes what the
scripts print now; the diff is what to review. The language is in raft_script.py.
"""

from pathlib import Path

import pytest
from raft_script import run_script

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.txt"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script_prints_what_is_written_in_it(path: Path, request: pytest.FixtureRequest) -> None:
    text = path.read_text()
    printed = run_script(text)
    if request.config.getoption("--rewrite-scripts", default=False):
        path.write_text(printed)
    else:
        assert printed == text


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) >= 9
