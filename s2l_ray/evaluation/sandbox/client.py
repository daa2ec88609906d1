"""Runs a model's programs in isolation, on all CPUs.

    with Sandbox(SandboxSettings(seconds=5)) as sandbox:
        result = sandbox.run("print(6 * 7)")      # ProgramResult(outcome="ok", stdout="42\\n", …)

A node is tested before its first program; if it cannot isolate programs, the sandbox refuses to run.
"""

from __future__ import annotations

import contextlib
import os
import queue
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from s2l_ray.errors import shown
from s2l_ray.evaluation.errors import EvaluationError, SandboxError
from s2l_ray.evaluation.sandbox import probe as self_test
from s2l_ray.evaluation.sandbox.fork_server import ForkServer
from s2l_ray.evaluation.sandbox.probe import ProbeReport
from s2l_ray.evaluation.sandbox.settings import OFF_FLAG, ProgramResult, SandboxSettings
from s2l_ray.evaluation.sandbox.watch import ServerDied, ServerFault

EXTRA = 'pip install "s2l_ray[evaluate]", here and on every node'
PROGRAM_PACKAGES = ("sympy", "numpy")
"""Packages other than the standard library that models' programs import."""
_TRIES = 2
"""Attempts to run a program: if its server dies, it is tried once more on another one."""


class Sandbox:
    """Fork servers that each run one program at a time; a context manager. `run` is thread-safe."""

    def __init__(self, settings: SandboxSettings | None = None) -> None:
        self.settings = settings or SandboxSettings()
        self.num_processes = self.settings.processes or _num_cpus()
        self._slots: queue.LifoQueue[ForkServer | None] = queue.LifoQueue()
        self._open = False
        self._closing = threading.Lock()

    def __enter__(self) -> Sandbox:
        """Test this node.

        Raises:
            EvaluationError: the node cannot isolate programs; none was run.
        """
        self._begin()
        try:
            report = self.probe()
            if not report.isolated and self.settings.mode in ("auto", "bwrap"):
                raise refusal(report.node, report.fault)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def run(self, program: str) -> ProgramResult:
        """Run one program, unchanged.

        Raises:
            EvaluationError: this node cannot isolate it (any more); it was not run.
            SandboxError: servers die on this node, with or without this program.
        """
        if not isinstance(program, str):
            raise TypeError(f"a program must be text, got {shown(program)}")
        for _ in range(_TRIES):
            slot = self._take()
            try:
                slot = slot or ForkServer(self.settings)
                return slot.run(program)
            except ServerDied as error:
                died = error
            except ServerFault as error:
                raise refusal(os.uname().nodename, str(error)) from error
            finally:
                self._slots.put(self._usable(slot))
        if not self.probe().attempts:
            raise SandboxError(
                f"the sandbox's servers die on node {os.uname().nodename} ({died}), so that no program can be judged "
                "there. Give the evaluation more memory or fewer sandbox.processes, or try again on another node"
            )
        return ProgramResult("exception", "", 0.0, f"the sandbox's server died twice while it ran: {died}")

    def run_many(self, programs: Sequence[str]) -> list[ProgramResult]:
        """Run all programs, in parallel on all servers, and return their results in order."""
        with ThreadPoolExecutor(max(1, min(self.num_processes, len(programs)))) as pool:
            futures = [pool.submit(self.run, program) for program in programs]
            try:
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def probe(self) -> ProbeReport:
        """Test what the sandbox blocks on this node; harmless even if it blocks nothing, and never refused."""
        mode = self.settings.mode
        slot = self._take()
        try:
            slot = slot or ForkServer(self.settings)
            with tempfile.TemporaryDirectory(prefix="s2l-probe-") as folder:
                path = Path(folder, "file")
                path.touch(mode=0o600)
                result = slot.run(self_test.probe_program(str(path)))
            return self_test.report(mode, slot.ready, result.outcome, result.stdout, result.reason)
        except (ServerFault, ServerDied, OSError) as error:
            return self_test.no_server(mode, str(error))
        finally:
            self._slots.put(self._usable(slot))

    def close(self) -> None:
        """Stop the servers, after waiting for running programs."""
        with self._closing:
            if not self._open:
                return
            self._open = False
            servers = [self._slots.get() for _ in range(self.num_processes)]
        for server in servers:
            if server is not None:
                server.close()

    def _begin(self) -> None:
        for _ in range(self.num_processes):
            self._slots.put(None)  # servers are started when needed
        self._open = True

    def _take(self) -> ForkServer | None:
        while self._open:
            with contextlib.suppress(queue.Empty):
                return self._slots.get(timeout=1)
        raise RuntimeError("the sandbox is not open: use it as `with Sandbox(settings) as sandbox:`")

    @staticmethod
    def _usable(server: ForkServer | None) -> ForkServer | None:
        """The server if it can run another program, otherwise None."""
        if server is None or server.healthy:
            return server
        server.kill()
        return None


def probe_node(settings: SandboxSettings | None = None) -> ProbeReport:
    """What the sandbox blocks on this node, without refusing the node, for dry runs."""
    sandbox = Sandbox(replace(settings or SandboxSettings(), processes=1))
    sandbox._begin()
    try:
        return sandbox.probe()
    finally:
        sandbox.close()


def _num_cpus() -> int:
    """Number of CPUs that this process may use, if the system reports it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_node(report: ProbeReport, settings: SandboxSettings) -> None:
    """Refuse a node on which models' programs must not run or would be judged wrongly.

    Raises:
        EvaluationError: the node cannot isolate them, or lacks one of the settings' `PROGRAM_PACKAGES`.
    """
    if not report.isolated and settings.mode in ("auto", "bwrap"):
        raise refusal(report.node, report.fault)
    for name in PROGRAM_PACKAGES:
        if name in settings.packages and report.packages.get(name, "not known") is None:
            raise EvaluationError(
                f"node {report.node} lacks the package {name}, so programs that import it would fail there and count "
                f"as wrong; {EXTRA}"
            )


def refusal(node: str, fault: str) -> EvaluationError:
    """The error for a node that cannot isolate programs."""
    return EvaluationError(
        f"node {node} cannot isolate programs ({fault}); they would run with your permissions. Use form=cot, a kernel "
        "≥ 5.13 with Landlock, sandbox.mode=bwrap, or, on a machine that holds nothing of value, sandbox.mode=off "
        f"together with {OFF_FLAG}"
    )
