"""Tests what the sandbox blocks on a node: a self-test inside it, harmless even if it blocks nothing."""

from __future__ import annotations

import json
import os
import platform
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

_PROGRAM = """
import errno, json, os, resource, socket
path, tried = {path!r}, {{}}

def attempt(name, action):
    try:
        action()
        tried[name] = "allowed"
    except OSError as error:
        tried[name] = errno.errorcode.get(error.errno, str(error.errno))

def fork():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)

attempt("read", lambda: os.close(os.open(path, os.O_RDONLY)))
attempt("write", lambda: os.close(os.open(path, os.O_WRONLY)))
attempt("mode", lambda: os.chmod(path, 0o600))
attempt("list", lambda: os.listdir(os.path.dirname(path)))
attempt("socket", lambda: socket.socket().close())
attempt("fork", fork)
attempt("execute", lambda: os.execv(path + "/none", ["none"]))
attempt("signal", lambda: os.kill(os.getppid(), 0))
tried["memory"] = "limited" if resource.getrlimit(resource.RLIMIT_AS)[1] != resource.RLIM_INFINITY else "unlimited"
print(json.dumps(tried))
"""
"""The file is the caller's own, empty, of mode 0600. Nothing is written, the signal is 0, and there is no such program.
"""

_REFUSED = {
    "read": ("EACCES",), "write": ("EACCES", "EPERM"), "mode": ("EPERM", "EACCES"), "list": ("EACCES",),
    "socket": ("EPERM", "EACCES"), "fork": ("EPERM",), "execute": ("EPERM", "EACCES"), "signal": ("EPERM",),
    "memory": ("limited",),
}  # fmt: skip
_HIDDEN = ("read", "write", "mode", "list")
"""Attempts for which a missing file counts as refused too, because bubblewrap hides the file."""


@dataclass(frozen=True)
class ProbeReport:
    """A node's sandbox, for manifests and dry runs."""

    node: str
    mode: str
    isolated: bool
    """Whether every attempt was refused as required."""
    kernel: str
    machine: str
    landlock_abi: int
    """Version of Landlock; 0: none."""
    attempts: dict[str, str] = field(default_factory=dict)
    """read, write, mode, list, socket, fork, execute, signal, memory → the system's answer."""
    packages: dict[str, str | None] = field(default_factory=dict)
    """Name → version; None: not installed."""
    fault: str = ""
    """Why programs are not isolated; empty if they are."""

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def probe_program(path: str) -> str:
    """The self-test, with the path of a file created for it."""
    return _PROGRAM.format(path=path)


def report(mode: str, ready: Mapping[str, Any], outcome: str, text: str, reason: str) -> ProbeReport:
    """Judge the self-test's output."""
    attempts: dict[str, str] = {}
    fault = ""
    try:
        attempts = {name: str(answer) for name, answer in json.loads(text).items()} if outcome == "ok" else {}
    except (ValueError, AttributeError):
        reason = "its output is not what the self-test prints"
    if attempts.keys() != _REFUSED.keys():
        fault = f"self-test: {outcome}{': ' if reason else ''}{reason}"
    else:
        wrong = [f"{name} {answer}" for name, answer in attempts.items() if not _refused(mode, name, answer)]
        fault = f"self-test: {', '.join(wrong)}" if wrong else ""
    return _report(mode, ready, attempts, fault)


def no_server(mode: str, fault: str) -> ProbeReport:
    """The report for a node on which no server can be started."""
    return _report(mode, {}, {}, fault)


def _refused(mode: str, name: str, answer: str) -> bool:
    return answer in _REFUSED[name] or (mode == "bwrap" and name in _HIDDEN and answer == "ENOENT")


def _report(mode: str, ready: Mapping[str, Any], attempts: dict[str, str], fault: str) -> ProbeReport:
    return ProbeReport(
        node=socket.gethostname(),
        mode=mode,
        isolated=not fault,
        kernel=platform.release(),
        machine=os.uname().machine,
        landlock_abi=int(ready.get("landlock_abi", 0)),
        attempts=attempts,
        packages=dict(ready.get("packages", {})),
        fault=fault,
    )
