"""Time of programs in the sandbox: trivial ones, ones that use sympy, and the start of a server.

    python benchmarks/sandbox.py
    python benchmarks/sandbox.py --programs 5000 --processes 8 --mode bwrap --json sandbox.json

Goal: 1,000 trivial programs in under 15 s on two cores. A program's time is how long its caller waits when programs run
one after another in one server: forking, locking, running, reading its output and the end of the process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from s2l_ray.evaluation.sandbox import Sandbox, SandboxSettings

SYMPY = "from sympy import symbols, solve\nx = symbols('x')\nprint(solve(x**2 - {}*x + 6, x))"
KINDS: dict[str, Callable[[int], str]] = {
    "trivial": lambda i: f"print({i} * 2)",
    "numpy": lambda i: f"import numpy as np\nprint(np.linalg.det(np.eye(3) * {i}))",
    "sympy": SYMPY.format,
}


def one_by_one(settings: SandboxSettings, kind: str, count: int) -> dict[str, Any]:
    """Measure the milliseconds per program for a caller of one server."""
    with Sandbox(replace(settings, processes=1)) as sandbox:
        waits = [_wait(sandbox, KINDS[kind](i)) for i in range(count)]
    return {
        "measured": f"{kind}, one by one",
        "programs": count,
        "median_ms": statistics.median(waits),
        "p95_ms": statistics.quantiles(waits, n=20)[-1],
    }


def _wait(sandbox: Sandbox, program: str) -> float:
    start = time.perf_counter()
    result = sandbox.run(program)
    assert result.outcome == "ok", result
    return 1000 * (time.perf_counter() - start)


def together(settings: SandboxSettings, count: int) -> dict[str, Any]:
    """Measure the seconds for many programs, including servers and self-test."""
    start = time.perf_counter()
    with Sandbox(settings) as sandbox:
        started = time.perf_counter()
        results = sandbox.run_many([KINDS["trivial"](i) for i in range(count)])
        end = time.perf_counter()
        assert [r.stdout for r in results] == [f"{i * 2}\n" for i in range(count)]
        return {
            "measured": f"trivial, {sandbox.num_processes} servers",
            "programs": count,
            "first_server_s": started - start,
            "programs_s": end - started,
            "total_s": end - start,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=1000)
    parser.add_argument("--processes", type=int, help="servers; default: one per CPU")
    parser.add_argument("--mode", choices=["auto", "bwrap", "external"], default="auto")
    parser.add_argument("--json", help="file for the rows")
    args = parser.parse_args()
    settings = SandboxSettings(mode=args.mode, processes=args.processes, seconds=30)
    rows = [together(settings, args.programs)]
    rows += [one_by_one(settings, kind, max(2, args.programs // 10)) for kind in KINDS]
    for row in rows:
        print(
            "  ".join(f"{name}={value:.2f}" if isinstance(value, float) else str(value) for name, value in row.items())
        )
    if args.json:
        with open(args.json, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
