"""Scaling of the proxy's training and scoring: tokens/s and examples/s of 1, 2, … workers in turn, one CPU each.

    python benchmarks/scaling.py ../shared/data/math/train.jsonl --workers 1 2 --rounds 3
    python benchmarks/scaling.py ../shared/data/math/train.jsonl --workers 1 2 --rounds 3 --cores-as-workers
    ray job submit --address http://head:8265 --working-dir . -- \
        python benchmarks/scaling.py s3://bucket/train.jsonl --workers 1 2 4 8 --device gpu --run-dir s3://bucket/tmp

Complete runs of the real stages on Ray Train workers, in turn, round by round. Rates are the workers' own, including
barriers and gradient exchanges but not the start of processes. Efficiency is the rate divided by that of one worker and
by the number of workers, as the median of the rounds' ratios.

On a small machine, Ray's own processes matter: with fewer workers than cores they have a core to themselves, with as
many they share the workers'. --cores-as-workers gives n workers and their Ray n cores in total, as if the machine grew.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from typing import Any

import s2l_ray

MAX_LENGTH = 256
_CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("corpus", help="a file of examples, as for corpus.paths")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="the first is what others count against")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=128, help="examples in an optimiser step, of all workers together")
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--cores-as-workers", action="store_true", help="all of a Ray started here on n cores (Linux)")
    parser.add_argument("--run-dir", help="a folder that all nodes see; default: a temporary one here")
    args = parser.parse_args()
    if args.cores_as_workers and max(args.workers) > len(_CORES):
        parser.error(f"--cores-as-workers wants a core for each of {max(args.workers)} workers; here are {len(_CORES)}")
    rows: list[dict[int, tuple[float, float]]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.rounds):
            place = f"{args.run_dir or folder}/round-{number}"
            rows.append({n: rates(args, n, f"{place}-of-{n}") for n in args.workers})
    report(args, rows)


def configuration(args: argparse.Namespace, workers: int, run_dir: str) -> dict[str, Any]:
    hidden = args.hidden_size
    shape = {
        "model_type": "llama", "hidden_size": hidden, "intermediate_size": 3 * hidden, "num_hidden_layers": 6,
        "num_attention_heads": 8, "max_position_embeddings": MAX_LENGTH, "tie_word_embeddings": True,
    }  # fmt: skip
    return {
        "name": "benchmark-scaling", "run_dir": run_dir,
        "corpus": {"paths": [args.corpus], "max_quarantined_share": 0.05},
        "heldout": {"share": 0.9},  # a tenth of the corpus is enough
        "proxy": {
            "from_config": shape, "train_tokenizer": {"vocab_size": 2048}, "render": "plain", "max_length": MAX_LENGTH,
            "max_steps": args.steps, "global_batch_size": args.batch, "tokens_per_microbatch": 2048,
        },
        "trajectories": {"num_snapshots": 2, "tokens_per_batch": 4096},
        "clusters": {"num_clusters": 10}, "selection": {"budgets": [0.1]},
        "resources": {"device": args.device, "proxy": {"workers": workers, "cpus_per_worker": 1}},
    }  # fmt: skip


def rates(args: argparse.Namespace, workers: int, run_dir: str) -> tuple[float, float]:
    """Return (tokens trained on, examples scored) per second."""
    if args.cores_as_workers:
        os.sched_setaffinity(0, sorted(_CORES)[:workers])  # Ray's processes inherit it
    manifest = s2l_ray.run(configuration(args, workers, run_dir)).stage("proxy").manifest
    summary = manifest.extra["summary"]
    return (
        summary["train_tokens"] / summary["train_seconds"],
        manifest.row_counts["scores"] / summary["score_seconds"],
    )


def report(args: argparse.Namespace, rows: list[dict[int, tuple[float, float]]]) -> None:
    first = args.workers[0]
    print(f"{'workers':>8}{'training, tokens/s':>22}{'efficiency':>12}{'scoring, examples/s':>22}{'efficiency':>12}")
    for n in args.workers:
        line = f"{n:>8}"
        for which in (0, 1):
            rate = statistics.median(row[n][which] for row in rows)
            gain = statistics.median(row[n][which] / row[first][which] for row in rows)
            line += f"{rate:>22,.0f}{gain * first / n:>12.0%}"
        print(line)


if __name__ == "__main__":
    main()
