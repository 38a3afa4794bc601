"""Real apiserver, controller-manager and scheduler on 127.0.0.1, and kubectl to ask them.

What lives here: starting and ending those processes with the flags that a cluster of ours needs.
What may not: what is asked of them. The binaries are named by the environment (`KUBE_APISERVER`,
`KUBE_CONTROLLER_MANAGER`, `KUBE_SCHEDULER`); `missing` says in one line which one there is not.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.cluster import free_ports, wait_until
from tests.kube.credentials import Credentials, make_credentials

OLDEST_APISERVER = (1, 30)
START_SECONDS = 180.0
STOP_SECONDS = 90.0
KUBECTL_SECONDS = 120.0
LOG_TAIL_LINES = 30


def named_binary(variable: str) -> str | None:
    """The program that the environment variable names; None when it is not set."""
    path = os.environ.get(variable)
    if path is None:
        return None
    assert os.access(path, os.X_OK), f"{variable}={path} is not a program"
    return path


def missing() -> str | None:
    """Why the tests with the real apiserver cannot run here; None when they can."""
    apiserver = named_binary("KUBE_APISERVER")
    if apiserver is None:
        return "KUBE_APISERVER does not name a kube-apiserver (1.30 or newer)"
    found = version(apiserver)
    if found < OLDEST_APISERVER:
        return f"KUBE_APISERVER is {found[0]}.{found[1]}, older than 1.30"
    if shutil.which("kubectl") is None:
        return "there is no kubectl on PATH"
    return None


def version(program: str) -> tuple[int, int]:
    """Major and minor of a Kubernetes program."""
    printed = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"v(\d+)\.(\d+)", printed.stdout)
    assert found, printed.stdout
    return int(found[1]), int(found[2])


class Program:
    """One process of the control plane; its log goes to a file of its own."""

    def __init__(self, name: str, command: Sequence[str], log_path: Path) -> None:
        self.name = name
        self.log_path = log_path
        self._command = tuple(command)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and return at once."""
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def check_running(self) -> None:
        """AssertionError with the end of the log when it ended."""
        assert self._process is not None
        code = self._process.poll()
        assert code is None, f"{self.name} ended with {code}:\n{self.log_tail()}"

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal and wait for the end."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(STOP_SECONDS)

    def close(self) -> None:
        """Kill it if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self.stop(signal.SIGKILL)

    def log_tail(self) -> str:
        """The last lines it printed."""
        if not self.log_path.exists():
            return ""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])


class ControlPlane:
    """An apiserver over the given etcd endpoints; more programs if their binaries are named."""

    def __init__(self, folder: Path, endpoints: Sequence[str], flags: Sequence[str] = ()) -> None:
        apiserver = named_binary("KUBE_APISERVER")
        assert apiserver is not None
        self.program = apiserver
        self._folder = folder
        self._ports = free_ports(3)
        self.credentials = make_credentials(folder / "credentials", self._ports[0])
        self._tls = ssl.create_default_context(cafile=str(self.credentials.authority))
        command = [apiserver, *_apiserver_flags(self.credentials, endpoints), *flags]
        self.apiserver = Program("kube-apiserver", command, folder / "apiserver.log")
        self.others: list[Program] = []

    def start_apiserver(self) -> None:
        """Start apiserver and wait until all its checks pass."""
        self.apiserver.start()
        wait_until(self._ready, START_SECONDS, "kube-apiserver is ready")

    def _ready(self) -> bool:
        """Whether all checks pass, and kubectl can read the types of the API, which come later."""
        self.apiserver.check_running()
        return all(self._answers(path) for path in ("/readyz", "/openapi/v2"))

    def _answers(self, path: str) -> bool:
        request = urllib.request.Request(
            f"https://127.0.0.1:{self.credentials.port}{path}",
            headers={"Authorization": f"Bearer {self.credentials.token}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=10, context=self._tls) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return False

    def start_controllers(self) -> bool:
        """Start controller-manager and scheduler; False when the environment does not name both."""
        manager = named_binary("KUBE_CONTROLLER_MANAGER")
        scheduler = named_binary("KUBE_SCHEDULER")
        if manager is None or scheduler is None:
            return False
        kubeconfig = self.credentials.kubeconfig
        common = [
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--bind-address=127.0.0.1",
            # They end when they cannot renew, and apiserver is away for longer than the default.
            "--leader-elect-lease-duration=180s",
            "--leader-elect-renew-deadline=150s",
        ]
        manager_flags = [
            f"--secure-port={self._ports[1]}",
            f"--service-account-private-key-file={self.credentials.service_account_key}",
            f"--root-ca-file={self.credentials.authority}",
        ]
        for name, command in (
            ("kube-controller-manager", [manager, *common, *manager_flags]),
            ("kube-scheduler", [scheduler, *common, f"--secure-port={self._ports[2]}"]),
        ):
            program = Program(name, command, self._folder / f"{name}.log")
            program.start()
            self.others.append(program)
        return True

    def _kubectl(self, args: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        command = ["kubectl", f"--kubeconfig={self.credentials.kubeconfig}", *args]
        return command, {**os.environ, "HOME": str(self._folder)}  # its cache goes there

    @contextmanager
    def kubectl_lines(self, *args: str) -> Iterator[Callable[[], list[str]]]:
        """Run kubectl while the context is open; gives a function that returns its lines so far."""
        command, environment = self._kubectl(args)
        output = self._folder / "kubectl.out"
        with output.open("wb") as file:
            process = subprocess.Popen(command, env=environment, stdout=file)
        try:
            yield lambda: output.read_text().splitlines()
        finally:
            process.kill()
            process.wait(STOP_SECONDS)

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        """Run kubectl, which must succeed; what it printed."""
        command, environment = self._kubectl(args)
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=KUBECTL_SECONDS,
            env=environment,
        )
        assert done.returncode == 0, f"kubectl {' '.join(args)}: {done.stdout}{done.stderr}"
        return done.stdout

    def print_logs(self) -> None:
        """Print the end of every program's log (pytest shows it with a failure)."""
        for program in (self.apiserver, *self.others):
            print(f"--- {program.name} ({program.log_path})\n{program.log_tail()}")

    def __enter__(self) -> ControlPlane:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None:
            self.print_logs()
        for program in (*self.others, self.apiserver):
            program.close()


def _apiserver_flags(credentials: Credentials, endpoints: Sequence[str]) -> list[str]:
    servers = ",".join(f"http://{endpoint}" for endpoint in endpoints)
    return [
        f"--etcd-servers={servers}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        f"--secure-port={credentials.port}",
        f"--tls-cert-file={credentials.serving_certificate}",
        f"--tls-private-key-file={credentials.serving_key}",
        f"--token-auth-file={credentials.tokens}",
        "--authorization-mode=Node,RBAC",
        f"--service-account-issuer=https://127.0.0.1:{credentials.port}",
        f"--service-account-key-file={credentials.service_account_key}",
        f"--service-account-signing-key-file={credentials.service_account_key}",
        "--service-cluster-ip-range=10.96.0.0/24",
        "--request-timeout=20s",  # also what it waits for open connections when it stops
    ]
