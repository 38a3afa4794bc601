"""The pytest plugin, as an application's test suite uses it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest


def test_the_fixtures_serve_and_can_be_broken(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        def test_one_node(etcd):
            assert len(etcd.endpoints) == 1
            assert etcd.leader() == 0

        def test_three_nodes(etcd_cluster):
            leader = etcd_cluster.leader()
            with etcd_cluster.partitioned([leader]):
                assert etcd_cluster.leader(timeout_s=60) is not None
            etcd_cluster.kill(leader)
            assert etcd_cluster.leader(timeout_s=60) != leader

        @pytest.mark.etcd(flags=["--max-txn-ops=7"], links=False)
        def test_with_a_marker(etcd):
            assert etcd.command(0)[-1] == "--max-txn-ops=7"
        """
    )
    done = pytester.runpytest_subprocess("-p", "no:cacheprovider", "--strict-markers")
    done.assert_outcomes(passed=3)


def test_the_example_of_the_readme_passes(pytester: pytest.Pytester) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    [example] = [text for text in examples if "etcd_cluster" in text]
    pytester.makepyfile(example)
    done = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    done.assert_outcomes(passed=1)


def test_a_wrong_option_of_the_marker_is_named(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.etcd(flag=["--max-txn-ops=7"])
        def test_mistyped(etcd):
            pass

        @pytest.mark.etcd(3)
        def test_without_a_name(etcd):
            pass
        """
    )
    done = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    done.assert_outcomes(errors=2)
    known = "size, flags, program, links, client_links"
    done.stdout.fnmatch_lines(
        [
            f"*@pytest.mark.etcd: there is no option 'flag'; it takes {known}",
            f"*@pytest.mark.etcd: 3 has no name; it takes {known}",
        ]
    )
