"""Time and memory of clustering and selecting by corpus size, on synthetic loss curves.

    python benchmarks/selection.py
    python benchmarks/selection.py --sizes 100000 1000000 10000000 --length 12 --clusters 100 \
        --budgets 0.01 0.05 0.11 0.2 0.5 --json selection.json

Each size runs in a fresh process, so that its peak memory is its own: the process's largest resident set, with Python,
the trajectory matrix and the ids included and nothing subtracted. Generating the curves is not part of the time.
Goal: 10^7 trajectories of length 12, K = 100, five budgets, under 90 s on two cores and under 3 GB.
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

from s2l_ray.selection import SelectionInputs, order_examples
from s2l_ray.selection.kmeans import fit_kmeans
from s2l_ray.selection.quotas import resolve_budget
from s2l_ray.storage.processes import peak_resident_bytes

NUM_SKILLS = 40
CHUNK_ROWS = 262_144

COLUMNS = {
    "num_examples": "examples",
    "num_clusters": "K",
    "train_s": "k-means (s)",
    "assign_s": "assign (s)",
    "order_s": "order (s)",
    "take_s": "budgets (s)",
    "total_s": "total (s)",
    "peak_gb": "peak (GB)",
}


def synthetic_curves(num_examples: int, length: int, seed: int) -> np.ndarray[Any, np.dtype[Any]]:
    """(N, T) float32 falling loss curves (nats) of skills with long-tailed frequencies, common ones learnt faster."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, NUM_SKILLS + 1)
    start, floor = rng.uniform(2, 6, NUM_SKILLS), rng.uniform(0.02, 1.5, NUM_SKILLS)
    rate = 6 * share ** rng.uniform(0.2, 1.0, NUM_SKILLS)
    progress = np.linspace(0, 1, length)
    means = (floor + (start - floor) * np.exp(-np.outer(progress, rate))).T  # (skills, T)
    means = means.astype(np.float32)
    curves = np.empty((num_examples, length), dtype=np.float32)
    for first in range(0, num_examples, CHUNK_ROWS):
        n = min(CHUNK_ROWS, num_examples - first)
        skill = rng.choice(NUM_SKILLS, n, p=share / share.sum())
        hardness = np.exp(0.3 * rng.standard_normal((n, 1), dtype=np.float32))  # long tail to the right
        noise = 1 + 0.05 * rng.standard_normal((n, length), dtype=np.float32)
        curves[first : first + n] = means[skill] * hardness * noise
    return curves


def measure(num_examples: int, length: int, num_clusters: int, budgets: list[float], seed: int) -> dict[str, Any]:
    """Cluster and select once, in this process."""
    curves = synthetic_curves(num_examples, length, seed)
    ids = np.random.default_rng(seed + 1).integers(0, 2**64, size=(num_examples, 2), dtype=np.uint64)
    start = time.perf_counter()
    result = fit_kmeans(curves, num_clusters=num_clusters, seed=seed)
    clustered = time.perf_counter()
    ordering = order_examples("s2l", SelectionInputs(ids, result.assignment), seed)
    ordered = time.perf_counter()
    sizes = [len(ordering.take(resolve_budget(budget, num_examples)).rows) for budget in budgets]
    end = time.perf_counter()
    return {
        "num_examples": num_examples,
        "num_clusters": len(result.sizes),
        "num_train_points": result.num_train_points,
        "inertia": result.inertia,
        "subset_sizes": sizes,
        "train_s": result.train_seconds,
        "assign_s": result.assign_seconds,
        "cluster_s": clustered - start,
        "order_s": ordered - clustered,
        "take_s": end - ordered,
        "total_s": end - start,
        "peak_gb": peak_resident_bytes() / 1e9,
    }


def in_fresh_process(num_examples: int, args: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure-here", "--sizes", str(num_examples), "--length", str(args.length)]
    command += ["--clusters", str(args.clusters), "--seed", str(args.seed), "--budgets", *map(str, args.budgets)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def print_table(rows: list[dict[str, Any]]) -> None:
    print(" ".join(f"{title:>12}" for title in COLUMNS.values()))
    for row in rows:
        cells = [f"{row[name]:,}" if isinstance(row[name], int) else f"{row[name]:.2f}" for name in COLUMNS]
        print(" ".join(f"{cell:>12}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000], help="examples")
    parser.add_argument("--length", type=int, default=12, help="T, losses per trajectory")
    parser.add_argument("--clusters", type=int, default=100, help="K")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.01, 0.05, 0.11, 0.2, 0.5], help="shares")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE", help="also write the measurements here")
    parser.add_argument("--measure-here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure_here:
        print(json.dumps(measure(args.sizes[0], args.length, args.clusters, args.budgets, args.seed)))
        return
    rows = [in_fresh_process(size, args) for size in args.sizes]
    print_table(rows)
    print(f"T = {args.length}, {len(args.budgets)} budgets, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=2)


if __name__ == "__main__":
    main()
