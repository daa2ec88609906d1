"""Settings and results of the sandbox."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from s2l_ray.errors import shown
from s2l_ray.evaluation.errors import EvaluationError

Mode = Literal["auto", "bwrap", "external", "off"]
Outcome = Literal[
    "ok", "no_output", "exception", "timeout", "memory", "output_limit", "denied", "syntax_error",
]  # fmt: skip

OFF_FLAG = "--i-know-programs-run-with-my-rights"
_BOUNDS: dict[str, tuple[float, int]] = {
    "seconds": (0.01, 86_400), "memory_mb": (1, 1 << 24), "output_kb": (1, 1 << 20), "processes": (1, 4096),
}  # fmt: skip


@dataclass(frozen=True)
class SandboxSettings:
    """How programs are isolated and limited.

    Raises:
        EvaluationError: a value is invalid, or mode is `off` without `programs_run_with_my_rights`.
    """

    mode: Mode = "auto"
    """auto: Landlock and seccomp. bwrap: bubblewrap's namespaces around a server with seccomp, and Landlock if the
    kernel has it. external: limits only, on nodes that are themselves a sandbox. off: limits only."""
    seconds: float = 5
    """Limit on wall-clock time of one program (seconds), and on CPU time (rounded up, plus one)."""
    memory_mb: int = 1024
    """Limit on address space of one program (MiB), beyond that of the interpreter with its packages."""
    output_kb: int = 64
    """Longest standard output (KiB)."""
    processes: int | None = None
    """Number of servers, each running one program at a time; None: one per CPU that this process may use."""
    packages: tuple[str, ...] = ("sympy", "numpy", "math_verify")
    """Packages that programs may import, with their dependencies, in addition to the standard library, if installed."""
    programs_run_with_my_rights: bool = False
    """Explicit consent, needed for `off`."""

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise EvaluationError(
                f"sandbox.mode is {shown(self.mode)}; programs cannot be run that way. Use one of "
                f"{', '.join(get_args(Mode))}"
            )
        if self.mode == "off" and not self.programs_run_with_my_rights:
            raise EvaluationError(
                "sandbox.mode is off: programs written by the model would run with your permissions, with access to "
                "your files and network. Use sandbox.mode=auto, or, on a machine that holds nothing of value, add "
                f"{OFF_FLAG}"
            )
        for name, (least, most) in _BOUNDS.items():
            value = getattr(self, name)
            if name == "processes" and value is None:
                continue
            number = isinstance(value, int) or (name == "seconds" and isinstance(value, float))
            if isinstance(value, bool) or not number or not least <= value <= most:
                kind = "a number" if name == "seconds" else "a whole number"
                raise EvaluationError(
                    f"sandbox.{name} is {shown(value)}; no program could run. Give {kind} from {least:g} to {most:,}"
                )
        for package in self.packages:
            if not (isinstance(package, str) and package.isidentifier()):
                raise EvaluationError(
                    f"sandbox.packages holds {shown(package)}, which cannot be imported. Give names as after `import`"
                )


@dataclass(frozen=True)
class ProgramResult:
    """The result of one program."""

    outcome: Outcome
    stdout: str
    """Standard output, as far as it was read; invalid UTF-8 is replaced."""
    seconds: float
    """Wall-clock time since the process was locked (seconds)."""
    reason: str = ""
    """Why it failed: the exception, signal or limit. It may contain the program's own words, so do not trust it."""
