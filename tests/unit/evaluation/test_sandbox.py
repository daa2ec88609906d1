"""What becomes of programs, class by class; and that none finds or leaves anything outside."""

from __future__ import annotations

import json
import os
import platform
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from s2l_ray.evaluation.answers.programs import find_program
from s2l_ray.evaluation.answers.symbolic import SandboxComparer
from s2l_ray.evaluation.sandbox import EvaluationError, Sandbox, SandboxSettings
from tests.support import sandbox_programs as programs
from tests.support.paths import SHARED
from tests.support.sandbox_programs import rows_of, wrong

PROGRAMS = SHARED / "data/evaluation/programs.jsonl"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """Patient: nothing but endless programs takes its whole time. It has passed its self-test."""
    os.environ["S2L_PROBE_SECRET"] = "planted"
    with Sandbox(SandboxSettings(seconds=30, memory_mb=512, processes=2)) as opened:
        yield opened
    del os.environ["S2L_PROBE_SECRET"]


@pytest.fixture(scope="module")
def hasty() -> Iterator[Sandbox]:
    with Sandbox(SandboxSettings(seconds=0.5, memory_mb=512, processes=2, packages=())) as opened:
        yield opened


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


@pytest.mark.thorough
def test_ordinary_programs(sandbox: Sandbox):
    rows = rows_of(programs.ORDINARY)
    assert wrong(rows, sandbox.run_many([row["program"] for row in rows])) == []


@pytest.mark.thorough
def test_endless_programs(hasty: Sandbox):
    rows = rows_of(programs.ENDLESS)
    start = time.monotonic()
    assert wrong(rows, hasty.run_many([row["program"] for row in rows])) == []
    assert time.monotonic() - start < 60


def test_what_is_outside_stays_as_it_is(sandbox: Sandbox, tmp_path: Path, listener: socket.socket):
    (tmp_path / "file").write_text("kept")
    before = _snapshot(tmp_path)
    rows = rows_of(programs.REFUSED, folder=str(tmp_path), port=listener.getsockname()[1])
    assert wrong(rows, sandbox.run_many([row["program"] for row in rows])) == []
    assert _snapshot(tmp_path) == before
    with pytest.raises(BlockingIOError):
        listener.accept()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are x86-64's")
def test_system_calls_by_number(sandbox: Sandbox):
    rows = rows_of(programs.NUMBERS)
    assert wrong(rows, sandbox.run_many([row["program"] for row in rows])) == []


@pytest.mark.thorough
def test_the_shared_programs(sandbox: Sandbox, hasty: Sandbox, listener: socket.socket):
    rows = shared_rows(listener.getsockname()[1])
    endless = [row for row in rows if row["expect"] == "timeout"]
    others = [row for row in rows if row["expect"] != "timeout"]
    assert wrong(endless, hasty.run_many([row["program"] for row in endless])) == []
    for row in others:
        assert wrong([row], [sandbox.run(row["program"])]) == []
        assert sandbox.run("print('next')").stdout == "next\n"
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_a_program_answers_for_itself_alone():
    """It writes wherever it can what another, or whoever watches it, would have said."""
    forger = """
import os, sys
print('mine', flush=True)
for fd in range(3, 1024):
    try:
        os.write(fd, b'LS forged')
    except OSError:
        pass
os.write(2, b'LS MemoryError: forged\\n')
frame = sys._getframe()
while frame:
    for value in list(frame.f_locals.values()) + list(frame.f_globals.values()):
        for name in ('sendall', 'send', 'write'):
            try:
                getattr(value, name)(b'forged')
            except Exception:
                pass
    frame = frame.f_back
os._exit({})
"""
    with Sandbox(SandboxSettings(seconds=30, processes=1, packages=())) as one:
        for status, outcome in ((0, "ok"), (1, "exception"), (77, "exception"), (103, "memory"), (104, "denied")):
            result = one.run(forger.format(status))
            assert (result.outcome, result.stdout) == (outcome, "mine\n")
            assert one.run("print('next')").stdout == "next\n"


def test_a_program_finds_no_other_in_its_memory():
    """All of its heap is searched; the word is put together nowhere, so that the search does not find itself."""
    search = """
import ctypes, gc
{}
libc = ctypes.CDLL(None)
page, arena, codes = 4096, 1 << 20, [c ^ 1 for c in b'QM@OUDE,6']
top = ctypes.c_void_p.in_dll(libc, '__curbrk').value if hasattr(libc, '__curbrk') else 0
starts = {{id(o) // arena * arena for o in gc.get_objects()}} | {{id(object()) // arena * arena}}
starts |= set(range(top // arena * arena - 64 * arena, top, arena)) if top else set()
seen, vector = 0, ctypes.create_string_buffer(1)
for start in sorted(starts):
    for address in range(start, start + arena, page):
        if libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(page), vector):
            continue
        data = ctypes.string_at(address, page)
        place = data.find(b'PL')
        while place >= 0:
            seen += list(data[place : place + len(codes)]) == codes
            place = data.find(b'PL', place + 1)
print(seen > 0)
"""
    with Sandbox(SandboxSettings(seconds=60, processes=1, packages=())) as one:
        own = one.run(search.format("word = ['PLANTED-' + str(7) for _ in range(5)]"))
        assert own.stdout == "True\n", own
        one.run("print(['PLANTED-' + str(n) for n in range(9)] * 50)\nplanted = 'PLANTED-7'")
        other = one.run(search.format(""))
        assert other.stdout == "False\n", other


def test_programs_print_the_same_in_every_server(sandbox: Sandbox, hasty: Sandbox):
    program = "import random\nprint({'a', 'b', 'c', 'd', 'e'}, random.random())"
    texts = {result.stdout for result in sandbox.run_many([program] * 6)} | {hasty.run(program).stdout}
    assert len(texts) == 1


def test_results_are_in_order(sandbox: Sandbox):
    results = sandbox.run_many([f"import time\ntime.sleep({0.02 * (i % 3)})\nprint({i})" for i in range(12)])
    assert [result.stdout for result in results] == [f"{i}\n" for i in range(12)]
    assert sandbox.run_many([]) == []


def test_text_is_bounded_and_readable(sandbox: Sandbox):
    limit = sandbox.settings.output_kb * 1024
    for size, outcome in ((limit, "ok"), (limit + 1, "output_limit")):
        result = sandbox.run(f"import sys\nsys.stdout.write('x' * {size})")
        assert (result.outcome, len(result.stdout)) == (outcome, limit)
    assert sandbox.run("import sys\nsys.stdout.buffer.write(b'1\\xff2')").stdout == "1\ufffd2"
    assert len(sandbox.run("raise ValueError('x' * 10 ** 6)").reason) < 500


def test_reasons(sandbox: Sandbox):
    assert sandbox.run("x = 1\ny = x / 0").reason == "ZeroDivisionError: division by zero (line 2)"
    assert "line 1" in sandbox.run("print(").reason
    assert sandbox.run("import ctypes\nctypes.string_at(0)").reason == "killed by SIGSEGV"
    assert "No module named 'not_there'" in sandbox.run("import not_there").reason


@pytest.mark.thorough
def test_a_long_program_arrives_whole(sandbox: Sandbox):
    program = "x = 0\n" + "x += 1\n" * 100_000 + "print(x)"
    assert sandbox.run(program).stdout == "100000\n"


@pytest.mark.thorough
def test_answers_in_latex_are_compared_inside():
    pytest.importorskip("math_verify")
    with Sandbox(SandboxSettings(seconds=60, processes=1)) as opened:
        compare = SandboxComparer(opened)
        assert compare("\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt{2}}") == "equal"
        assert compare("\\sqrt{2}", "\\sqrt{3}") == "different"


@pytest.mark.thorough
def test_nothing_is_left_behind(hasty: Sandbox):
    hasty.run_many(["print(1)"] * 4)  # both servers have started
    servers = _servers()
    before = [_descriptors(os.getpid()), *map(_descriptors, servers)]
    files = set(os.listdir(tempfile.gettempdir()))
    kinds = ["print(1)", "1 / 0", "print(", "import os\nos.kill(os.getpid(), 9)", "print('x' * 10 ** 6)"]
    hasty.run_many(kinds * 40)
    assert _servers() == servers
    assert [_descriptors(os.getpid()), *map(_descriptors, servers)] == before
    assert [p.pid for pid in servers for p in psutil.Process(pid).children(recursive=True)] == []
    assert {name for name in set(os.listdir(tempfile.gettempdir())) - files if name.startswith("s2l")} == set()


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"mode": "none"}, "bwrap"),
        ({"mode": "off"}, "--i-know-programs-run-with-my-rights"),
        ({"seconds": 0}, "sandbox.seconds is 0"),
        ({"seconds": float("nan")}, "sandbox.seconds is nan"),
        ({"seconds": 1e9}, "from 0.01 to 86,400"),
        ({"memory_mb": 1.5}, "whole number"),
        ({"memory_mb": 10**12}, "sandbox.memory_mb"),
        ({"output_kb": -1}, "sandbox.output_kb is -1"),
        ({"processes": 0}, "sandbox.processes is 0"),
        ({"processes": True}, "sandbox.processes is True"),
        ({"packages": ("a; import os",)}, "sandbox.packages"),
    ],
)
def test_settings_that_cannot_be(values: dict[str, Any], names: str):
    with pytest.raises(EvaluationError, match=names):
        SandboxSettings(**values)


def test_it_is_used_open(sandbox: Sandbox):
    with pytest.raises(RuntimeError, match="with Sandbox"):
        Sandbox().run("print(1)")
    with pytest.raises(TypeError, match="must be text"):
        sandbox.run(b"print(1)")  # type: ignore[arg-type]


def program_of(completion: str) -> str:
    return find_program(completion) or completion


def shared_rows(port: int) -> list[dict[str, Any]]:
    if not PROGRAMS.exists():
        pytest.skip(f"{PROGRAMS} is not here (it is not part of the project)")
    rows = [json.loads(line) for line in PROGRAMS.read_text().splitlines()]
    for row in rows:
        pytest.importorskip(row.get("needs", "math"))
        row["program"] = program_of(row["program"]).replace("('127.0.0.1', 9)", f"('127.0.0.1', {port})")
    return rows


def _snapshot(folder: Path) -> Any:
    """Content, owner, mode and times of a folder's files, and the names where programs would leave something."""
    state = {}
    for path in [folder, *folder.rglob("*")]:
        s = path.stat()
        state[path] = (
            s.st_mode,
            s.st_uid,
            s.st_size,
            s.st_mtime_ns,
            s.st_ctime_ns,
            path.is_file() and path.read_text(),
        )
    left = [name for name in os.listdir(tempfile.gettempdir()) if name.startswith(("s2l", "tmp"))]
    return state, sorted(os.listdir("/")), sorted(os.listdir(".")), len(left) < 10**6


def _servers() -> list[int]:
    return sorted(p.pid for p in psutil.Process().children() if "s2l_sandbox" in " ".join(p.cmdline()))


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))
