"""A real Ray head of one's own for tests of jobs: free ports, its own folder, gone without touching any other Ray."""

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
from pathlib import Path
from types import TracebackType

import psutil

RAY = str(Path(sys.executable).with_name("ray"))


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class RayHead:
    """`with RayHead(environment) as head:` — `ray start --head --block` as a child, ended by its pid."""

    def __init__(self, environment: dict[str, str], num_cpus: int = 4) -> None:
        gcs, dashboard, agent, metrics, client = free_ports(5)
        self.environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {
            # The job's `python` must be this one.
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "disabled",
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "1",
            "RAY_raylet_start_wait_time_s": "180",  # 30 s are few on a busy machine
            **environment,
        }
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
        self._log = open(Path(self.folder, "start.log"), "w")
        self._process = subprocess.Popen(
            self._command, env=self.environment, stdout=self._log, stderr=subprocess.STDOUT
        )
        try:
            self._wait()
        except BaseException:
            self.kill()
            raise
        return self

    def _wait(self) -> None:
        log = Path(self.folder, "start.log")
        deadline = time.monotonic() + 300
        while not (self.answers() and "Ray runtime started" in log.read_text()):
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, f"the head does not come up: {log.read_text()}"
            time.sleep(0.2)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/api/version", timeout=5) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        """As when its machine loses power: GCS, raylet and all workers at once."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in [(own := psutil.Process(self._process.pid)), *own.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self._process.wait(20)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        family = psutil.Process(self._process.pid).children(recursive=True) if self._process.poll() is None else []
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
        for process in family:
            if process.is_running():  # the same process, not another one with its pid
                process.kill()
        psutil.wait_procs(family, timeout=20)
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)
