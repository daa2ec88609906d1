"""Compares answers in LaTeX that need a computer algebra system: math-verify, in a separate process with limits on time
and memory. Only this module uses math_verify, inside a program's text; it never imports the library itself.

The comparison is a program (`PROGRAM`), so that a sandbox can run it like a model's program (`SandboxComparer`).
`ProcessComparer` keeps one process for many comparisons if no sandbox is needed: math-verify parses LaTeX with a
grammar and evaluates no Python (its parser for plain expressions, which does, is not used).
"""

from __future__ import annotations

import json
import os
import re
import selectors
import subprocess
import sys
import tempfile
import time
from typing import Any, Protocol

import psutil

from s2l_ray.errors import EnvironmentFault
from s2l_ray.evaluation.answers.mathematics import Comparison
from s2l_ray.text.display import shorten

MAX_CHARACTERS = 500
"""Longer answers (characters) are not passed to the library."""
MAX_NESTING = 20
_MAX_WAIT = 20
"""Limit on wall-clock time, as a multiple of the limit on CPU time."""

PROGRAM = r"""
import json, logging, re, sys
logging.disable(logging.CRITICAL)

def read(text):
    from math_verify import LatexExtractionConfig, parse
    latex = [LatexExtractionConfig()]
    found = parse("$" + text + "$", extraction_config=latex, parsing_timeout=None, raise_on_error=False)
    return next((value for value in found if not isinstance(value, str)), None)

def compare(gold, answer):
    import sympy
    from math_verify import verify
    wanted, given = read(gold), read(answer)
    if wanted is None or given is None:
        return "unreadable"
    if isinstance(wanted, sympy.Eq) and isinstance(given, sympy.Eq):
        ratio = sympy.simplify((wanted.lhs - wanted.rhs) / (given.lhs - given.rhs))
        return "equal" if ratio.is_number and ratio.is_finite and ratio != 0 else "different"
    both = (wanted, given)
    if all(isinstance(value, sympy.Expr) and not value.free_symbols for value in both):
        values = [value.doit().evalf(30) for value in both]
        if all(value.is_number and value.is_finite for value in values):
            size = max(abs(value) for value in values)
            return "equal" if abs(values[0] - values[1]) <= size * sympy.Float("1e-20") else "different"
    return "equal" if verify(wanted, given, timeout_seconds=None) else "different"

def answer(line):
    try:
        outcome = compare(*json.loads(line))
    except Exception:
        outcome = "unreadable"
    return "s2l:" + outcome
"""
_SERVE = (
    r"""
import json, sys
sys.path += json.loads(sys.argv[1])
"""
    + PROGRAM
    + r"""
import resource
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
import math_verify, sympy
compare("1", "1")
print("s2l:ready", flush=True)
for line in sys.stdin:
    print(answer(line), flush=True)
"""
)


class Result(Protocol):
    """The result of a program."""

    @property
    def outcome(self) -> str: ...

    @property
    def stdout(self) -> str: ...


class Sandbox(Protocol):
    def run(self, program: str) -> Any:
        """Runs a program and returns a Result."""


def is_within_limits(text: str) -> bool:
    """Whether a text is short and flat enough to be passed to the library."""
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    if re.search(r"['\"`#@;?]|__|[A-Za-z]{20}", text):  # not the notation of an answer
        return False
    return len(text) <= MAX_CHARACTERS and deepest <= MAX_NESTING and text.isprintable() and text.count("^") <= 40


def _outcome(printed: str) -> Comparison:
    for outcome in ("equal", "different", "timeout"):
        if printed.strip().endswith(f"s2l:{outcome}"):
            return outcome
    return "unreadable"


class SandboxComparer:
    """Compares answers in the sandbox that runs models' programs, with its time limit."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox

    def __call__(self, gold: str, answer: str) -> Comparison:
        if not (is_within_limits(gold) and is_within_limits(answer)):
            return "unreadable"
        line = json.dumps([gold, answer])
        result: Result = self.sandbox.run(f"{PROGRAM}\nprint(answer({line!r}))\n")
        return "timeout" if result.outcome == "timeout" else _outcome(result.stdout)


class ProcessComparer:
    """Compares answers in a separate process, started when first needed and restarted if it had to be stopped.

    Memory: the process holds sympy (about 150 MB) and may use 4 GB of address space. Not thread-safe.

    Args:
        seconds: limit on one comparison (CPU seconds).
    """

    def __init__(self, seconds: float = 5.0, start_seconds: float = 120.0) -> None:
        self.seconds, self.start_seconds = seconds, start_seconds
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> ProcessComparer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, gold: str, answer: str) -> Comparison:
        if not (is_within_limits(gold) and is_within_limits(answer)):
            return "unreadable"
        self.start()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps([gold, answer]) + "\n")
            process.stdin.flush()
            line = self._line(process, self.seconds)
        except OSError:  # it died since the last answer
            line = ""
        except BaseException:  # interrupted: its answer would be taken for that to the next question
            self.close()
            raise
        if not line:
            self.close()
            return "timeout" if line is None else "unreadable"
        return _outcome(line)

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            _end(process)

    def start(self) -> None:
        """Start the process now, so that a missing package is noticed before the answers cost anything.

        Raises:
            EnvironmentFault: the process cannot compare anything; the message has its own error.
        """
        if self._process is not None:
            return
        # Isolated, because a file named sympy.py in the user's folder must not be imported; so the folders from which
        # this process imports (PYTHONPATH, a `pip install --target`) come after the interpreter's own.
        folders = [folder for folder in sys.path if os.path.isabs(folder)]
        with tempfile.TemporaryFile("w+") as errors:  # a pipe could fill up
            process = subprocess.Popen(
                [sys.executable, "-I", "-c", _SERVE, json.dumps(folders)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={"OPENBLAS_NUM_THREADS": "1", "PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            )
            try:
                line = self._line(process, self.start_seconds)
                if line is not None and "ready" in line:
                    self._process = process
                    return
            finally:
                if self._process is None:  # it failed, or this was interrupted
                    _end(process)
            errors.seek(0)
            said = errors.read().strip().splitlines()
        reason = shorten(said[-1], 300) if said else f"it gave no answer within {self.start_seconds:g} s"
        raise EnvironmentFault(
            f"the process that compares answers in LaTeX did not start ({reason}), so answers to MATH cannot be "
            "judged; check that math-verify is installed (pip install 's2l_ray[evaluate]')"
        )

    def _line(self, process: subprocess.Popen[str], seconds: float) -> str | None:
        """The next line; empty if the process has ended, None if its time is over. CPU time counts, so that a busy
        machine gives the same verdicts; a process that only waits is eventually stopped."""
        assert process.stdout is not None
        begin, used = time.monotonic(), _processor_seconds(process.pid)
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not selector.select(min(seconds, 0.25)):
                over = _processor_seconds(process.pid) - used > seconds
                if over or time.monotonic() - begin > _MAX_WAIT * seconds:
                    return None
            return process.stdout.readline()


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def _processor_seconds(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)
