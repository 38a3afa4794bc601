"""Patroni with PostgreSQL on our cluster: one leader, and another one after its host dies.

Opt-in, because it needs PostgreSQL's programs and takes minutes: ``make test-patroni``. Patroni
speaks the JSON gateway (OTH-17..20), through all members.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.cluster import Cluster, free_ports, wait_until

DEADLINE_S = 120.0
TTL_S = 20
"""Patroni's least TTL of the leader key: so long a dead host may keep it."""


_SETPRIV = (
    "setpriv",
    "--reuid=postgres",
    "--regid=postgres",
    "--clear-groups",
    # The Python that runs this may be in root's home.
    "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search",
)
_AS_POSTGRES = _SETPRIV if os.geteuid() == 0 else ()
"""PostgreSQL does not run as root."""


def _postgres_programs() -> Path | None:
    if "PG_BINDIR" in os.environ:
        return Path(os.environ["PG_BINDIR"])
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    return found[-1].parent if found else None


def _missing() -> str:
    if os.environ.get("PATRONI") != "1":
        return "opt-in: make test-patroni"
    if _postgres_programs() is None:
        return "PostgreSQL's programs are not installed (apt-get install postgresql, or PG_BINDIR)"
    if shutil.which("patroni", path=str(Path(sys.executable).parent)) is None:
        return "patroni is not installed (make test-patroni installs it)"
    if os.geteuid() == 0 and not _user_exists("postgres"):
        return "PostgreSQL does not run as root, and there is no user postgres"
    return ""


def _user_exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


pytestmark = pytest.mark.skipif(bool(_missing()), reason=_missing())


class Host:
    """One machine of the database: Patroni and the PostgreSQL that it runs, in one session."""

    def __init__(self, name: str, folder: Path, etcd: list[str], ports: tuple[int, int]) -> None:
        self.name = name
        self.api, self.port = ports
        self.log = folder / f"{name}.log"
        self._config = folder / f"{name}.yml"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._config.write_text(yaml.safe_dump(self._settings(etcd)))

    def _settings(self, etcd: list[str]) -> dict[str, Any]:
        here = f"127.0.0.1:{self.port}"
        return {
            "scope": "batman",
            "name": self.name,
            "restapi": {
                "listen": f"127.0.0.1:{self.api}",
                "connect_address": f"127.0.0.1:{self.api}",
            },
            "etcd3": {"hosts": etcd},
            "bootstrap": {
                "dcs": {"ttl": TTL_S, "loop_wait": 1, "retry_timeout": 5},
                "initdb": [{"encoding": "UTF8"}, {"auth": "trust"}],
            },
            "postgresql": {
                "listen": here,
                "connect_address": here,
                "data_dir": str(self._folder / self.name),
                "bin_dir": str(_postgres_programs()),
                "authentication": {
                    "superuser": {"username": "postgres"},
                    "replication": {"username": "replicator"},
                },
                "parameters": {"unix_socket_directories": str(self._folder), "fsync": "off"},
                "pg_hba": ["local all all trust", "host all all 127.0.0.1/32 trust",
                           "host replication replicator 127.0.0.1/32 trust"],
            },
        }  # fmt: skip

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*_AS_POSTGRES, str(Path(sys.executable).parent / "patroni"), str(self._config)],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={"PATH": os.environ["PATH"], "HOME": str(self._folder)},
                cwd=self._folder,
            )

    def die(self) -> None:
        """Kill everything on it at once: Patroni, and PostgreSQL, which has its own session."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._process = None
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            pid = int((self._folder / self.name / "postmaster.pid").read_text().split()[0])
            children = subprocess.run(
                ["ps", "-o", "pid=", "--ppid", str(pid)],
                capture_output=True,
                text=True,
                check=False,
            )
            for victim in [pid, *map(int, children.stdout.split())]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)

    def role(self) -> str:
        """``primary``, ``replica`` or what else Patroni says of itself; empty: no answer."""
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.api}/patroni", timeout=5
            ) as answer:
                status = json.load(answer)
        except (OSError, ValueError):
            return ""
        return str(status.get("role")) if status.get("state") == "running" else ""

    def sql(self, statement: str) -> str:
        programs = _postgres_programs()
        assert programs is not None
        command = [str(programs / "psql"), "-h", "127.0.0.1", "-p", str(self.port)]
        done = subprocess.run(
            [*command, "-U", "postgres", "-Atc", statement, "postgres"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@contextlib.contextmanager
def database(etcd: list[str]) -> Iterator[list[Host]]:
    """Two hosts. Their folder is one that PostgreSQL's user may enter, so not pytest's."""
    with tempfile.TemporaryDirectory(prefix="patroni-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
        ports = free_ports(4)
        hosts = [Host(f"pg{i}", folder, etcd, (ports[2 * i], ports[2 * i + 1])) for i in range(2)]
        try:
            yield hosts
        except BaseException:
            for host in hosts:
                if host.log.exists():
                    print(f"--- {host.name}\n" + "\n".join(host.log.read_text().splitlines()[-40:]))
            raise
        finally:
            for host in hosts:
                host.die()


def has_role(host: Host, role: str) -> Callable[[], bool]:
    return lambda: host.role() == role


def test_a_replica_takes_over_when_the_leaders_host_dies(tmp_path: Path) -> None:
    """OTH-17..20: bootstrap, replication, fail-over, return; one of our members dies meanwhile."""
    with Cluster(3, tmp_path) as cluster:
        cluster.start_all()
        with database(cluster.endpoints) as (first, second):
            first.start()
            wait_until(has_role(first, "primary"), DEADLINE_S, "the first host leads")
            second.start()
            wait_until(has_role(second, "replica"), DEADLINE_S, "the second one follows")
            first.sql("create table story (line text)")
            first.sql("insert into story values ('before')")
            wait_until(
                lambda: (
                    second.sql("select count(*) from pg_class where relname = 'story'") == "1"
                    and second.sql("select count(*) from story") == "1"
                ),
                DEADLINE_S,
                "the line is replicated",
            )

            cluster.kill(cluster.leader())  # our leader dies: Patroni must not change its own
            wait_until(
                lambda: cluster.leader_now() is not None, DEADLINE_S, "another of our members leads"
            )
            assert first.role() == "primary"

            first.die()
            wait_until(has_role(second, "primary"), DEADLINE_S, "the second host takes over")
            second.sql("insert into story values ('after')")
            assert second.sql("select string_agg(line, ' ' order by line) from story") == (
                "after before"
            )

            first.start()
            wait_until(has_role(first, "replica"), DEADLINE_S, "the first one comes back")
            assert second.role() == "primary"
