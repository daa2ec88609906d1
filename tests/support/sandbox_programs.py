"""Programs of every class, harmless where a sandbox does nothing; and how their results are judged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from s2l_ray.evaluation.sandbox import ProgramResult

_LIBC = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    answer = libc.syscall(*(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    return answer if answer >= 0 else errno.errorcode[ctypes.get_errno()]
"""

Row = tuple[str, str, str | tuple[str, ...], str | None]

ORDINARY: list[Row] = [
    ("print", "total = 48 + 48 // 2\nprint(total)", "ok", "72"),
    ("annotation", "x: int = 3\nprint(x)", "ok", "3"),
    ("comprehension", "print([i * i for i in range(4)])", "ok", "[0, 1, 4, 9]"),
    ("class", "class A:\n    x = 5\nprint(A().x, A.__module__)", "ok", "5 __main__"),
    ("global", "n = 0\ndef f():\n    global n\n    n += 1\nf()\nprint(n)", "ok", "1"),
    ("unloaded-module", "import wave, difflib, xml.etree.ElementTree\nprint('ok')", "ok", "ok"),
    ("exit-none", "print(1)\nexit()", "ok", "1"),
    ("exit-message", "import sys\nprint(1)\nsys.exit('no')", "exception", None),
    ("exit-truth", "import sys\nprint(1)\nsys.exit(True)", "exception", None),
    ("exit-256", "import sys\nprint(1)\nsys.exit(256)", "exception", None),
    ("exit-late", "import atexit\natexit.register(print, 'late')\nprint('x')", "ok", "x\nlate"),
    ("thread-late", "import threading, time\ndef f():\n    time.sleep(0.05)\n    print('late')\n"
     "threading.Thread(target=f).start()\nprint('x')", "ok", "x\nlate"),
    ("thread-daemon", "import threading, time\nthreading.Thread(target=time.sleep, args=(99,), daemon=True).start()\n"
     "print(5)", "ok", "5"),
    ("stdout-closed", "import sys\nprint(42)\nsys.stdout.close()", "ok", "42"),
    ("stdout-lost", "import os\nprint(42)\nos.close(1)", "exception", None),
    ("blank-output", "print()\nprint('  ')", "no_output", None),
    ("assertion", "assert 1 == 2, 'no'", "exception", None),
    ("interrupt", "raise KeyboardInterrupt", "exception", None),
    ("nasty-message", "class E(Exception):\n    def __str__(self):\n        raise SystemExit(0)\nraise E",
     "exception", None),
    ("name", "print(undefined)", "exception", None),
    ("not-a-package", "import torch", "exception", None),
    ("own-signal", "import os\nos.kill(os.getpid(), 15)", "exception", None),
    ("abort", "import os\nos.abort()", "exception", None),
    ("deep-in-c", "import sys\nsys.setrecursionlimit(10 ** 7)\nclass A:\n    def __repr__(self):\n"
     "        return repr([self])\nprint(A())", ("exception", "memory"), None),
    ("environment", "import os\nprint(sorted(os.environ))", "ok", "['HOME']"),
    ("file-name", "import os\nprint(os.path.basename(__file__))", "ok", "<program>"),
    ("surrogate", "print('\ud800')", "syntax_error", None),
    ("nul", "print(1)\0", "syntax_error", None),
    ("nested", "print(" + "-" * 100_000 + "1)", "syntax_error", None),
    ("return-outside", "return 3", "syntax_error", None),
    ("fence", "```python\nprint(3)\n```", "syntax_error", None),
    ("allocation", "x = [0] * 10 ** 10\nprint(len(x))", "memory", None),
    ("map", "import mmap\nkept = []\nwhile True:\n    kept.append(mmap.mmap(-1, 10 ** 8))", "memory", None),
    ("caught", "try:\n    bytearray(10 ** 11)\nexcept MemoryError:\n    print('caught')", "ok", "caught"),
    ("limit-raised", "import resource as r\nr.prlimit(0, r.RLIMIT_AS, (-1, -1))\nbytearray(10 ** 11)", "memory", None),
    ("one-line", "import os\nos.write(1, b'x' * 10 ** 6)", "output_limit", None),
    ("tiny-stacks", "import threading, time\nthreading.stack_size(32768)\nfor _ in range(5000):\n"
     "    threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\ntime.sleep(9)",
     ("memory", "exception"), None),
]  # fmt: skip
"""Name, program, outcomes that are right, and what is printed."""

ENDLESS: list[Row] = [
    ("loop-in-exit", "import atexit\n@atexit.register\ndef f():\n    while True:\n        pass\nprint('x')",
     "timeout", None),
    ("wait", "import threading\nprint(1)\nthreading.Event().wait()", "timeout", None),
    ("streams-closed", "import os\nfor fd in range(3):\n    os.close(fd)\nwhile True:\n    pass", "timeout", None),
    ("stopped", "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", "timeout", None),
    ("many-digits", "x = 3 ** 10 ** 9\nprint(1)", ("timeout", "memory"), None),
    ("stderr-flood", "import sys\nwhile True:\n    sys.stderr.write('x' * 9999)", ("output_limit", "timeout"), None),
    ("message-loop", "class E(Exception):\n    def __str__(self):\n        while True:\n            pass\nraise E",
     "timeout", None),
]  # fmt: skip

REFUSED: list[Row] = [
    ("write", "open({folder!r} + '/new', 'w')", "denied", None),
    ("append", "open({folder!r} + '/file', 'a')", "denied", None),
    ("truncate", "import os\nos.open({folder!r} + '/file', os.O_RDONLY | os.O_TRUNC)", "denied", None),
    ("read", "open({folder!r} + '/file')", "denied", None),
    ("path", "from pathlib import Path\nprint(Path({folder!r}, 'file').read_text())", "denied", None),
    ("temporary", "import tempfile\ntempfile.NamedTemporaryFile()", "denied", None),
    ("folder", "import os\nos.mkdir({folder!r} + '/new')", "denied", None),
    ("link", "import os\nos.symlink('/', {folder!r} + '/new')", "denied", None),
    ("hard-link", "import os\nos.link({folder!r} + '/file', {folder!r} + '/new')", "denied", None),
    ("rename", "import os\nos.rename({folder!r} + '/file', {folder!r} + '/file')", "denied", None),
    ("mode", "import os\nos.chmod({folder!r} + '/file', 0o600)", "denied", None),
    ("owner", "import os\nos.chown({folder!r} + '/file', -1, -1)", "denied", None),
    ("attribute", "import os\nos.setxattr({folder!r} + '/file', 'user.s2l', b'x')", "denied", None),
    ("file-lock", "import fcntl, os\nfcntl.flock(open(os.__file__), 2)", "denied", None),
    ("listing", "import os\nprint(os.listdir({folder!r}))", "denied", None),
    ("home", "import os\nprint(os.listdir(os.path.expanduser('~')))", "denied", None),
    ("packages", "import os, sysconfig\nprint(os.listdir(sysconfig.get_path('stdlib') + '/site-packages'))",
     ("denied", "exception"), None),
    ("parents-files", "import os\nprint(os.readlink(f'/proc/{{os.getppid()}}/exe'))", "denied", None),
    ("parents-memory", "import os\nprint(open(f'/proc/{{os.getppid()}}/mem', 'rb').read(1))", "denied", None),
    ("parents-environment", "import os\nprint(open(f'/proc/{{os.getppid()}}/environ').read())", "denied", None),
    ("own-descriptors", "import os\nprint(os.listdir('/proc/self/fd'))", "denied", None),
    ("tcp", "import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)", "denied", None),
    ("udp", "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
     "denied", None),
    ("http", "import http.client\nhttp.client.HTTPConnection('127.0.0.1', {port}, timeout=2).request('GET', '/')",
     "denied", None),
    ("event-loop", "import asyncio\nasyncio.run(asyncio.open_connection('127.0.0.1', {port}))", "denied", None),
    ("tls", "import socket, ssl\nssl.create_default_context().wrap_socket(socket.socket())", "denied", None),
    ("resolve", "import socket\nprint(socket.getaddrinfo('localhost', 80))", "denied", None),
    ("pair", "import socket\nsocket.socketpair()", "denied", None),
    ("shell", "import os\nprint(os.popen('echo hi').read())", "denied", None),
    ("spawn", "import os\nprint(os.posix_spawn('/bin/true', ['true'], {{}}))", "denied", None),
    ("execute", "import os\nos.execv('/none', ['none'])", "denied", None),
    ("process", "import multiprocessing\nmultiprocessing.Process(target=print).start()", "denied", None),
    ("pool", "from concurrent.futures import ProcessPoolExecutor\nProcessPoolExecutor(1).submit(abs, 1).result()",
     "denied", None),
    ("shared-memory", "from multiprocessing.shared_memory import SharedMemory\nSharedMemory(create=True, size=1)",
     "denied", None),
    ("group-signal", "import os\nos.killpg(os.getpgid(os.getppid()), 0)", "denied", None),
    ("session", "import os\nos.setsid()", "denied", None),
    ("user", "import os\nos.setuid(os.getuid())", "denied", None),
    ("priority", "import os\nos.setpriority(os.PRIO_PROCESS, 0, 19)", "denied", None),
    ("parents-limits", "import os, resource\nresource.prlimit(os.getppid(), resource.RLIMIT_CORE, (0, 0))",
     "denied", None),
    ("memory-file", "import os\nos.memfd_create('x')", "denied", None),
]  # fmt: skip
"""`folder` and `port` are the test's own. Nothing here deletes, signals for real, or changes what it is meant to."""

_KERNEL = (
    _LIBC
    + """
parent, me, null = os.getppid(), os.getpid(), ctypes.create_string_buffer(256)
r, w = os.pipe()
attempts = [
    call(425, 8, null), call(426, r, 0, 0, 0), call(434, parent, 0), call(424, r, 0, 0, 0), call(435, null, 88),
    call(437, -100, null, null, 24), call(452, -100, null, 0o600, 0), call(469, -100, null, null, 24, 0),
    call(470, 0), call(1 << 20, 0), call(0x40000000 | 41, 2, 1, 0), call(0x40000000 | 57),
]
print(*attempts)
"""
)

_X86 = (
    _LIBC
    + """
parent, me, null = os.getppid(), os.getpid(), ctypes.create_string_buffer(256)
r, w = os.pipe()
CLONE_VM, CLONE_VFORK, CLONE_THREAD, SIGCHLD = 0x100, 0x4000, 0x10000, 17
forks = [call(56, SIGCHLD, 0, 0, 0, 0), call(56, CLONE_VFORK | SIGCHLD, 0, 0, 0, 0), call(56, CLONE_VM, 0, 0, 0, 0),
         call(56, CLONE_THREAD | 0x10000000, 0, 0, 0, 0), call(57), call(58)]
if 0 in forks:
    os._exit(0)
signals = [call(62, parent, 0), call(62, -parent, 0), call(62, -1, 0), call(62, 0, 0), call(62, parent | 1 << 32, 0),
           call(200, parent, 0), call(234, parent, parent, 0), call(129, parent, 0, 0), call(297, parent, parent, 0, 0)]
owners = [call(72, r, 8, parent), call(72, r, 10, 23), call(72, r, 15, null), call(16, r, 0x8901, null)]
others = [call(101, 16, parent, 0, 0), call(310, parent, 0, 0, 0, 0, 0), call(272, 0x10000000),
          call(157, 4, 1, 0, 0, 0), call(157, 1, 0, 0, 0, 0), call(157, 36, 1, 0, 0, 0), call(302, parent, 9, 0, null),
          call(250, 0, 0, 0, 0, 0),
          call(29, 0, 4096, 0o1600), call(319, null, 0), call(317, 1, 0, 0)]
print({*forks, *signals, *owners, *others})
"""
)

NUMBERS: list[Row] = [
    ("new-calls", _KERNEL, "ok", " ".join(
        ["EPERM"] * 4 + ["ENOSYS"] * 2 + ["EPERM"] * 2 + ["ENOSYS"] * 4)),
    ("raw-calls", _X86, "ok", "{'EPERM'}"),
    ("32-bit-call", "import ctypes, mmap\nm = mmap.mmap(-1, 4096, prot=7)\n"
     "m.write(bytes([0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0xc3]))  # getpid by interrupt\n"
     "print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))())", "denied", None),
]  # fmt: skip
"""System calls by number, for x86-64."""


def rows_of(programs: Sequence[Row], **values: Any) -> list[dict[str, Any]]:
    """In the form of the shared set; `values` fill the programs of `REFUSED`."""
    return [
        {"id": name, "program": program.format(**values) if values else program, "answer": answer,
         "expect": outcomes if isinstance(outcomes, str) else outcomes[0], "also": list(outcomes[1:])
         if isinstance(outcomes, tuple) else []}
        for name, program, outcomes, answer in programs
    ]  # fmt: skip


def wrong(rows: Sequence[dict[str, Any]], results: Sequence[ProgramResult]) -> list[str]:
    """Those that did not end as they should."""
    found = []
    for row, result in zip(rows, results, strict=True):
        right = result.outcome in (row["expect"], *row.get("also", ()))
        printed = row["answer"] is None or result.outcome != "ok" or result.stdout.strip() == row["answer"]
        if not (right and printed):
            found.append(f"{row['id']}: {json.dumps(row['expect'])} {row['answer']!r}, but {result}")
    return found
