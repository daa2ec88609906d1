"""Time and memory of every selector on synthetic scores: 10⁴, 10⁵ and 10⁶ examples, each in a separate process.

    python benchmarks/every_selector.py                        # minutes: facility location at 10⁶ is most of it
    python benchmarks/every_selector.py --sizes 100000 --selectors facility_location s2l

Rows in parentheses are not selectors: guards, and the cost of one more budget. Scores and embeddings are drawn at
random in 200 unequal groups; the cost of computing them with a model, usually far higher, is not measured here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

import numpy as np

from s2l_ray.selection import (
    ArrayEmbeddings,
    GuardOptions,
    SelectionInputs,
    evaluate_guard,
    list_selectors,
    needs_of,
    order_examples,
    power_quotas,
    resolve_options,
)
from s2l_ray.selection.options import SelectorOptions
from s2l_ray.storage.processes import peak_resident_bytes

NUM_GROUPS = 200
CHUNK_ROWS = 65_536
GUARDS = {"(guard rise, not_learnt)": ["rise", "not_learnt"], "(guard prompt_gain)": ["prompt_gain"]}
ALLOCATION = "(allocation, 10⁵ clusters)"

Array = np.ndarray[Any, np.dtype[Any]]


def synthetic_inputs(num: int, dim: int, num_clusters: int, needs: frozenset[str], seed: int) -> SelectionInputs:
    """Create exactly the columns that are needed, so that the memory is the selector's."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, NUM_GROUPS + 1)
    group = rng.choice(NUM_GROUPS, num, p=share / share.sum()).astype(np.int32)
    late = rng.gamma(2.0, 0.5, num).astype(np.float32)
    signals: dict[str, Array] = {}
    embeddings: dict[str, ArrayEmbeddings] = {}
    for need in needs:
        column, _, snapshot = need.partition("@")
        if "embedding" in column and snapshot:
            embeddings[need] = ArrayEmbeddings(grouped_vectors(group, dim, rng))
        elif snapshot == "all":
            signals[need] = np.minimum(rng.random((num, 12), dtype=np.float32) * 1.2, 1)
        elif snapshot:
            signals[need] = late * rng.uniform(0.8, 1.6, num).astype(np.float32)
    losses = None
    if "losses" in needs:
        losses = late[:, None] + np.linspace(3, 0, 12, dtype=np.float32) * rng.random((num, 1), dtype=np.float32)
    return SelectionInputs(
        rng.integers(0, 2**64, size=(num, 2), dtype=np.uint64),
        np.minimum(rng.geometric(3 / num_clusters, num) - 1, num_clusters - 1).astype(np.int32),
        group % 7,
        [f"source {code}" for code in range(7)],
        losses=losses,
        signals=signals,
        embeddings=embeddings,
        query_embeddings=rng.standard_normal((100, dim)) if "query_embeddings" in needs else None,
    )


def grouped_vectors(group: Array, dim: int, rng: np.random.Generator) -> Array:
    """(N, d) float16."""
    centers = rng.standard_normal((NUM_GROUPS, dim)).astype(np.float32)
    vectors = np.empty((len(group), dim), dtype=np.float16)
    for start in range(0, len(group), CHUNK_ROWS):
        block = group[start : start + CHUNK_ROWS]
        vectors[start : start + len(block)] = centers[block] + 0.6 * rng.standard_normal(
            (len(block), dim), dtype=np.float32
        )
    return vectors


def measure(name: str, num: int, args: argparse.Namespace) -> dict[str, Any]:
    """Measure one selector, guard or allocation in this process."""
    if name == ALLOCATION:
        sizes = np.random.default_rng(0).multinomial(num, np.ones(100_000) / 100_000)
        keys = np.arange(len(sizes), dtype=np.uint64)
        start = time.perf_counter()
        power_quotas(sizes, int(args.budget * num), 0.5, keys)
        return {"name": name, "num": num, "order_s": time.perf_counter() - start, "take_s": 0.0, "inputs_gb": 0.0,
                "extra_gb": 0.0, "notes": {}}  # fmt: skip
    if name in GUARDS:
        guard = GuardOptions.model_validate({"rules": GUARDS[name], "min_kept_share": 0.0})
        inputs = synthetic_inputs(num, args.dim, args.clusters, guard.needs(), args.seed)
        before, start = peak_gb(), time.perf_counter()
        report = evaluate_guard(inputs, guard)
        return {"name": name, "num": num, "order_s": time.perf_counter() - start, "take_s": 0.0, "inputs_gb": before,
                "extra_gb": peak_gb() - before, "notes": report.dropped_by_rule}  # fmt: skip
    options = resolve_options(name, {}, {"guard": {**guard_rules(resolve_options(name)), "min_kept_share": 0.0}})
    inputs = synthetic_inputs(num, args.dim, args.clusters, needs_of(name, options), args.seed)
    budget = max(1, int(args.budget * num))
    before, start = peak_gb(), time.perf_counter()
    ordering = order_examples(name, inputs, args.seed, options, budget)
    ordered = time.perf_counter()
    assert len(ordering.take(budget).rows) == budget
    return {"name": name, "num": num, "order_s": ordered - start, "take_s": time.perf_counter() - ordered,
            "inputs_gb": before, "extra_gb": peak_gb() - before, "notes": dict(ordering.notes)}  # fmt: skip


def guard_rules(options: SelectorOptions) -> dict[str, Any]:
    return options.guard.model_dump(include={"rules"})


def peak_gb() -> float:
    """Return the peak memory of this process so far."""
    return peak_resident_bytes() / 1e9


def in_fresh_process(name: str, num: int, args: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure-here", "--sizes", str(num), "--selectors", name]
    command += ["--dim", str(args.dim), "--clusters", str(args.clusters), "--budget", str(args.budget)]
    done = subprocess.run([*command, "--seed", str(args.seed)], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def print_row(row: dict[str, Any]) -> None:
    numbers = f"{row['num']:>12,} {row['order_s']:>10.2f} {row['take_s']:>10.3f} {row['inputs_gb']:>11.2f}"
    print(f"{row['name']:28}{numbers} {row['extra_gb']:>11.2f}  {row['notes'] or ''}", flush=True)


def main() -> None:
    known = [selector.name for selector in list_selectors()] + [*GUARDS, ALLOCATION]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="examples")
    parser.add_argument("--selectors", nargs="+", default=known, choices=known, metavar="NAME", help="default: all")
    parser.add_argument("--dim", type=int, default=64, help="numbers in an embedding")
    parser.add_argument("--clusters", type=int, default=100, help="K of the trajectories")
    parser.add_argument("--budget", type=float, default=0.1, help="share")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE", help="also write the measurements here")
    parser.add_argument("--measure-here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure_here:
        print(json.dumps(measure(args.selectors[0], args.sizes[0], args)))
        return
    print(f"{'':28}{'examples':>12} {'order (s)':>10} {'budget (s)':>10} {'inputs (GB)':>11} {'beside (GB)':>11}")
    rows = []
    for num in args.sizes:
        for name in args.selectors:
            rows.append(in_fresh_process(name, num, args))
            print_row(rows[-1])
    threads = os.environ.get("OMP_NUM_THREADS", "as many as cores")
    load = os.getloadavg()[0]
    print(f"d = {args.dim}, budget {args.budget:g}, {os.cpu_count()} cores, threads {threads}, load {load:.1f}")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=2)


if __name__ == "__main__":
    main()
