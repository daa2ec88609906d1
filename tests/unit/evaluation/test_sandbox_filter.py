"""The system call filter of both architectures, run instruction by instruction; its numbers; every Landlock."""

from __future__ import annotations

import errno
import os
import re
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from s2l_ray.evaluation.sandbox.landlock import landlock_abi, read_only_ruleset, restrict_self
from s2l_ray.evaluation.sandbox.lock import prctl
from s2l_ray.evaluation.sandbox.seccomp import ABSENT, ALLOW, ARCHITECTURES, KILL, PRETEND, REFUSE, build_filter
from s2l_ray.evaluation.sandbox.seccomp import REFUSE_ACCESS as ACCESS
from s2l_ray.evaluation.sandbox.syscalls import CHECKED, DENIED, NEWEST

PID = 4242
I386, ARM = 0x40000003, 0x40000028
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
BOTH = pytest.mark.parametrize("machine", sorted(ARCHITECTURES))


def verdict(machine: str, number: int, *arguments: int, audit: int | None = None) -> int:
    """What the kernel's machine makes of the filter: seccomp_data is number, architecture, address, six arguments."""
    words = [value & 0xFFFFFFFFFFFFFFFF for value in (*arguments, *[0] * (6 - len(arguments)))]
    data = struct.pack("=IIQ6Q", number & 0xFFFFFFFF, ARCHITECTURES[machine][0] if audit is None else audit, 0, *words)
    code = build_filter(machine, PID)
    place, accumulator = 0, 0
    while True:
        operation, if_true, if_false, operand = code[place]
        place += 1
        if operation == 0x06:
            return operand
        if operation == 0x20:
            accumulator = struct.unpack_from("=I", data, operand)[0]
        elif operation == 0x54:
            accumulator &= operand
        else:
            holds = {
                0x15: accumulator == operand, 0x25: accumulator > operand, 0x35: accumulator >= operand,
                0x45: bool(accumulator & operand),
            }[operation]  # fmt: skip
            place += if_true if holds else if_false


def number(machine: str, name: str) -> int:
    found = {**DENIED, **CHECKED}[name][ARCHITECTURES[machine][1]]
    assert found is not None
    return found


@BOTH
def test_whatever_is_listed_is_refused_and_nothing_else(machine: str):
    column = ARCHITECTURES[machine][1]
    denied = {row[column] for row in DENIED.values()} - {None}
    checked = {row[column] for row in CHECKED.values()} - {None}
    assert not denied & checked
    for call in range(NEWEST + 1):
        if call not in checked:
            assert verdict(machine, call, 1, 2, 3) == (REFUSE if call in denied else ALLOW), call


@BOTH
def test_other_architectures_and_unknown_numbers(machine: str):
    assert verdict(machine, 1, audit=I386) == KILL
    assert verdict(machine, 1, audit=ARM) == KILL
    other = next(name for name in ARCHITECTURES if name != machine)
    assert verdict(machine, 1, audit=ARCHITECTURES[other][0]) == KILL
    for call in (NEWEST + 1, 512, 547, 0x40000000, 0x40000000 | 41, 0x7FFFFFFF, -1):
        assert verdict(machine, call) == ABSENT, call


@BOTH
@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("clone", (0x3D0F00,), ALLOW),  # as libc starts a thread
        ("clone", (17,), REFUSE),
        ("clone", (0x4111,), REFUSE),
        ("clone", (0x10000000 | 17,), REFUSE),
        ("clone", (0x10000000 | 0x3D0F00,), REFUSE),
        ("clone", (0x00020000 | 0x3D0F00,), REFUSE),
        ("clone", (1 << 48 | 17,), REFUSE),
        ("clone3", (0, 88), ABSENT),
        ("openat2", (0, 0, 0, 24), ABSENT),
        ("openat", (-100, 0, os.O_RDONLY | os.O_CLOEXEC), ALLOW),
        ("openat", (-100, 0, os.O_RDONLY | os.O_DIRECTORY), ALLOW),
        ("openat", (-100, 0, os.O_WRONLY), ACCESS),
        ("openat", (-100, 0, os.O_RDWR), ACCESS),
        ("openat", (-100, 0, os.O_RDONLY | os.O_TRUNC), ACCESS),
        ("openat", (-100, 0, os.O_RDONLY | os.O_CREAT), ACCESS),
        ("openat", (-100, 0, os.O_TMPFILE | os.O_RDWR), ACCESS),
        ("openat", (-100, 0, 1 << 32 | os.O_WRONLY), ACCESS),
        ("kill", (PID, 9), ALLOW),
        ("kill", (PID + 1, 0), REFUSE),
        ("kill", (0, 0), REFUSE),
        ("kill", (-1, 0), REFUSE),
        ("kill", (-PID, 0), REFUSE),
        ("kill", (1 << 32 | 1, 0), REFUSE),
        ("tgkill", (PID, 1, 6), ALLOW),
        ("tgkill", (1, PID, 6), REFUSE),
        ("tkill", (1, 0), REFUSE),
        ("rt_sigqueueinfo", (1, 0, 0), REFUSE),
        ("rt_tgsigqueueinfo", (1, 1, 0, 0), REFUSE),
        ("fcntl", (3, 2, 1), ALLOW),
        ("fcntl", (3, 8, 1), REFUSE),
        ("fcntl", (3, 10, 9), REFUSE),
        ("fcntl", (3, 15, 0), REFUSE),
        ("fcntl", (3, 6, 0), REFUSE),
        ("fcntl", (3, 1024, 1), REFUSE),
        ("ioctl", (0, 0x5401, 0), ALLOW),
        ("ioctl", (0, 0x5412, 0), REFUSE),
        ("ioctl", (0, 0x8901, 0), REFUSE),
        ("prctl", (15, 0), ALLOW),
        ("prctl", (1, 0), REFUSE),
        ("prctl", (4, 1), REFUSE),
        ("prctl", (22, 2, 0), REFUSE),
        ("setrlimit", (9, 1), PRETEND),
        ("prlimit64", (0, 9, 0, 1), ALLOW),
        ("prlimit64", (PID, 9, 0, 1), ALLOW),
        ("prlimit64", (0, 9, 1, 0), PRETEND),
        ("prlimit64", (0, 9, 1 << 40, 0), PRETEND),
        ("prlimit64", (1, 9, 0, 1), REFUSE),
    ],
)
def test_what_depends_on_arguments(machine: str, name: str, arguments: tuple[int, ...], expected: int):
    assert verdict(machine, number(machine, name), *arguments) == expected


def test_opening_the_old_way():
    open_number = number("x86_64", "open")
    assert verdict("x86_64", open_number, 0, os.O_RDONLY) == ALLOW
    assert verdict("x86_64", open_number, 0, os.O_RDONLY | os.O_TRUNC) == ACCESS


@BOTH
def test_numbers_are_those_of_the_headers(machine: str):
    header = HEADERS[machine]
    if not header.exists():
        pytest.skip(f"{header} is not here")
    found = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text()))
    column = ARCHITECTURES[machine][1]
    compared = 0
    for name, row in {**DENIED, **CHECKED}.items():
        if name in found and row[column] is not None:
            assert (name, row[column]) == (name, int(found[name]))
            compared += 1
        elif name in found and machine == "x86_64":
            pytest.fail(f"{name} has a number on x86-64")
    assert compared > 100


def _supported_abi() -> int:
    try:
        return landlock_abi() if sys.platform == "linux" else 0
    except OSError:
        return 0


@pytest.mark.skipif(not _supported_abi(), reason="this kernel has no Landlock")
@pytest.mark.parametrize("abi", range(1, 8))
def test_landlock_of_every_version(abi: int, tmp_path: Path):
    """Older rules on this kernel; the truncation that versions 1 and 2 do not know is the filter's."""
    if abi > _supported_abi():
        pytest.skip(f"this kernel has version {_supported_abi()}")
    (tmp_path / "open").mkdir()
    (tmp_path / "open/file").write_text("x")
    (tmp_path / "closed").write_text("x")
    alone = tmp_path / "alone"
    alone.write_text("x")

    def locked() -> list[str | None]:
        rules = read_only_ruleset(abi, [str(tmp_path / "open"), str(alone), str(tmp_path / "not-there")])
        prctl(38, 1)
        restrict_self(rules)
        return [
            _attempt(lambda: os.listdir(tmp_path / "open")), _attempt(lambda: (tmp_path / "open/file").read_text()),
            _attempt(alone.read_text), _attempt(lambda: os.listdir(tmp_path)),
            _attempt((tmp_path / "closed").read_text), _attempt(lambda: (tmp_path / "open/file").open("a").close()),
            _attempt(lambda: (tmp_path / "open/new").mkdir()), _attempt(lambda: os.rename(alone, tmp_path / "open/y")),
        ]  # fmt: skip

    assert _in_child(locked) == "None None None EACCES EACCES EACCES EACCES EACCES"


def _attempt(action: Callable[[], object]) -> str | None:
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return None


def _in_child(action: Callable[[], list[str | None]]) -> str:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, " ".join(map(str, action())).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return text
