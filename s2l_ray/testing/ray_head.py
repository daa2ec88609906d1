"""A separate Ray head for tests of jobs, with free ports and its own folder, that leaves other Ray processes alone."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import psutil

RAY = str(Path(sys.executable).with_name("ray"))


_OF_THE_SESSION = (
    "RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "GLOO_SOCKET_IFNAME",
    "NCCL_SOCKET_IFNAME", "TP_SOCKET_IFNAME",
)  # fmt: skip
"""Variables that lead to the test session's own Ray (conftest.ray_cluster)."""


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def family(process: psutil.Process) -> list[psutil.Process]:
    """Return the process and all its descendants."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [process, *process.children(recursive=True)]
    return []


def kill_family(process: psutil.Process) -> None:
    """Kill a process and its descendants as a power failure would, without any clean-up."""
    members = family(process)
    for member in members:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(members, timeout=20)


def ray_start(command: list[str], environment: dict[str, str], log: Path, seconds: float = 300) -> psutil.Popen:
    """Run `ray start --block` as a child process, and return it when the node is up.

    Start again if the raylet dies: it waits at most 15 s for its agents, which need longer on a busy machine.
    """
    deadline = time.monotonic() + seconds
    while True:
        with log.open("w") as out:
            process = psutil.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
        had_raylet = False
        while "Ray runtime started" not in log.read_text():
            has_raylet = any(_is_raylet(p) for p in family(process)[1:])
            if process.poll() is not None or (had_raylet and not has_raylet):
                break
            had_raylet = has_raylet
            if time.monotonic() > deadline:
                kill_family(process)
                raise AssertionError(f"the node does not come up: {log.read_text()}")
            time.sleep(0.1)
        else:
            return process
        kill_family(process)
        assert time.monotonic() < deadline, f"the node dies again and again: {log.read_text()}"


def _is_raylet(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.name() == "raylet" and process.status() != psutil.STATUS_ZOMBIE
    return False


class RayHead:
    """Ray head started by `ray start --head --block` as a child process: `with RayHead(environment) as head:`."""

    def __init__(self, environment: Mapping[str, str | None], num_cpus: int = 4) -> None:
        """Prepare a head; `environment` is added to this process's environment, and None removes a variable."""
        gcs, dashboard, agent, metrics, client = free_ports(5)
        wanted = {k: v for k, v in os.environ.items() if k not in _OF_THE_SESSION} | {
            # The job's `python` must be this one.
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "disabled",
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "1",
            # Ray's default timeouts are too short for a busy machine.
            "RAY_raylet_start_wait_time_s": "300",
            "RAY_agent_register_timeout_ms": "300000",
            "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300",
            **environment,
        }
        self.environment = {name: value for name, value in wanted.items() if value is not None}
        self.address = f"http://127.0.0.1:{dashboard}"
        self.gcs_address = f"127.0.0.1:{gcs}"
        self.metrics_url = f"http://127.0.0.1:{metrics}/metrics"
        self.folder = tempfile.mkdtemp(prefix="s2lray")  # short: Ray's socket paths have a limit
        self._command = [
            RAY, "start", "--head", "--block", f"--port={gcs}", f"--dashboard-port={dashboard}",
            f"--dashboard-agent-listen-port={agent}", f"--metrics-export-port={metrics}",
            f"--ray-client-server-port={client}", "--min-worker-port=0", "--max-worker-port=0",
            f"--num-cpus={num_cpus}", f"--temp-dir={self.folder}", "--disable-usage-stats",
        ]  # fmt: skip

    def __enter__(self) -> RayHead:
        self._process = ray_start(self._command, self.environment, Path(self.folder, "start.log"))
        deadline = time.monotonic() + 120
        while not self.answers():
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError("the dashboard does not answer")
            time.sleep(0.2)
        return self

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/api/gcs_healthz", timeout=5) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        kill_family(self._process)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        members = family(self._process)
        if members:
            self._process.terminate()
            psutil.wait_procs([self._process], timeout=20)
        for process in members:
            if process.is_running():  # the same process, not another one with its pid
                process.kill()
        psutil.wait_procs(members, timeout=20)
        shutil.rmtree(self.folder, ignore_errors=True)
