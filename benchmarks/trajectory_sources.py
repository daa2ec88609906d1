"""Compare sources of trajectories: their cost, the agreement of their clusters, the quality of their subsets. No Ray.

    python benchmarks/trajectory_sources.py quickstart
    python benchmarks/trajectory_sources.py ../shared/data/math/train.jsonl --recipe maths_curve

For each seed, one proxy is trained as in the recipe. The losses computed in training are recorded, and the proxy scores
the corpus at T snapshots and at those of the hybrids, so that all sources share one training run, in which their costs
are measured. Each source's trajectories are clustered as in the recipe, S2L selects from the clusters, and the recipe's
target is fine-tuned on the subset, for the same number of steps whatever the source.

    cost      seconds of training and of the scoring that this source needs; `published programs` is the authors' way
              of training and of scoring T snapshots, extrapolated from steps and examples measured here
    agreement adjusted Rand index of its clusters with those of T snapshots (Hubert & Arabie 1985); the row `snapshots,
              other k-means` has the same trajectories, clustered with another seed
    worth     held-out loss of the target, averaged within skills or sources, then over them (nats per token)
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comparison import published
from comparison.corpora import read_jsonl
from comparison.reference import clusters_of
from comparison.tokens import Tokenised, tokenise, tokenizer_of
from comparison.training import Training, whole_corpus_plan

from s2l_ray.config import load_config
from s2l_ray.config.schema import S2LConfig
from s2l_ray.data.epoch_losses import TREND_EXAMPLES, running_mean
from s2l_ray.data.quickstart import generate_corpus
from s2l_ray.execution.placement import local_cores
from s2l_ray.selection import SelectionInputs, order_examples

Array = np.ndarray[Any, np.dtype[Any]]


def read_rows(args: argparse.Namespace, config: S2LConfig) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return training rows without duplicates, and held-out rows; columns instruction, output, source."""
    if args.corpus == "quickstart":
        train, test = generate_corpus(args.examples)
        named = [[row | {"source": row["skill"]} for row in rows] for rows in (train, test)]
        return list({(r["instruction"], r["output"]): r for r in named[0]}.values()), named[1]
    rows = read_jsonl(Path(args.corpus))
    order = np.random.default_rng(0).permutation(len(rows))
    held = max(1, round(0.03 * len(rows)))
    return [rows[i] for i in order[held:][: args.examples]], [rows[i] for i in order[:held]]


@dataclass(frozen=True)
class Trajectories:
    losses: Array
    """(N, T)."""
    scored: int
    """Passes over the corpus in addition to training."""


def trajectories(args: argparse.Namespace, config: S2LConfig, train: Tokenised, tokenizer: Any, seed: int) -> Any:
    """Return {source: Trajectories}, seconds of training, and seconds of one scoring pass."""
    num = len(train.examples)
    plan = whole_corpus_plan(num, config.proxy, None, seed)
    total, epochs = plan.total_steps, plan.total_steps // plan.steps_per_epoch
    assert epochs >= 2, f"{total} steps are {total / plan.steps_per_epoch:.1f} epochs; take fewer examples"
    row_of = np.empty(num, np.int64)
    row_of[train.examples.ids[:, 1].astype(np.int64)] = np.arange(num)
    even = [int(s) for s in np.linspace(1, total, args.snapshots).round()]
    hybrids = {n: [round(total * k / n) for k in range(1, n + 1)] for n in args.hybrids}
    wanted = {*even, total, *(s for steps in hybrids.values() for s in steps)}
    recorded = np.full((num, epochs), np.nan, np.float32)
    level = np.full((num, epochs), np.nan)
    scores: dict[int, Array] = {}
    score_seconds = []
    training = Training(config.proxy, tokenizer, plan, seed, config.trajectories.tokens_per_batch, record=True)
    for step, ids, losses in training.steps(train.examples):
        epoch = (step - 1) // plan.steps_per_epoch
        if epoch < epochs:
            recorded[row_of[ids], epoch] = losses
            level[row_of[ids], epoch] = step
        if step in wanted:
            started = time.perf_counter()
            scores[step] = training.scorer(train.examples).losses
            score_seconds.append(time.perf_counter() - started)
    assert np.isfinite(recorded).all(), "an example was not seen in an epoch"

    def column(steps: list[int]) -> list[Array]:
        return [scores[s] for s in steps]

    found = {
        "snapshots": Trajectories(np.stack(column(even), 1), len(even)),
        "last snapshot": Trajectories(np.stack(column([total]), 1), 1),
    }
    for mark, losses in (("", without_trend(recorded, level)), (", raw", recorded))[: 1 + args.raw]:
        found[f"training{mark}"] = Trajectories(losses, 0)
        for count, steps in hybrids.items():
            found[f"hybrid, {count}{mark}"] = Trajectories(np.stack([*losses.T, *column(steps)], 1), count)
    return found, training.train_seconds, statistics.median(score_seconds)


def without_trend(recorded: Array, step: Array) -> Array:
    """Detrend losses (N, E) by the steps at which they were computed, as the trajectories stage does."""
    out = np.empty_like(recorded)
    for epoch in range(recorded.shape[1]):
        order = np.argsort(step[:, epoch], kind="stable")
        losses = recorded[order, epoch]
        out[order, epoch] = losses - running_mean(losses, TREND_EXAMPLES) + losses.mean()
    return out


def adjusted_rand(a: Array, b: Array) -> float:
    """Compute the agreement of two clusterings, 1 if identical, 0 by chance (Hubert & Arabie 1985, equation 5)."""
    table = np.zeros((int(a.max()) + 1, int(b.max()) + 1))
    np.add.at(table, (a, b), 1)

    def pairs(counts: Array) -> float:
        return float((counts * (counts - 1) / 2).sum())

    both, of_a, of_b, all_pairs = pairs(table), pairs(table.sum(1)), pairs(table.sum(0)), len(a) * (len(a) - 1) / 2
    expected = of_a * of_b / all_pairs
    return (both - expected) / ((of_a + of_b) / 2 - expected)


def worth(args: argparse.Namespace, config: S2LConfig, train: Tokenised, test: Tokenised, tokenizer: Any, rows: Array,
          seed: int) -> float:  # fmt: skip
    """Return the held-out loss of the target after training on these rows."""
    assert config.target is not None
    chosen = train.examples.take(np.sort(rows))
    plan = whole_corpus_plan(len(chosen), config.target, args.target_steps, seed)
    training = Training(config.target, tokenizer, plan, seed, config.heldout.tokens_per_batch).finish(chosen)
    losses = training.scorer(test.examples).losses
    _, source = np.unique(test.sources, return_inverse=True)
    return float((np.bincount(source, weights=losses) / np.bincount(source)).mean())


def one_seed(args: argparse.Namespace, config: S2LConfig, seed: int, on_row: Any) -> None:
    rows, held_out = read_rows(args, config)
    proxy_tokenizer = tokenizer_of(config.proxy, rows)
    train = tokenise(rows, config.proxy, proxy_tokenizer, config)
    if args.worth:
        assert config.target is not None, "a recipe without a target needs --no-worth"
        target_tokenizer = tokenizer_of(config.target, rows)
        train_by_target = tokenise(rows, config.target, target_tokenizer, config)
        test = tokenise(held_out, config.target, target_tokenizer, config)
        assert len(train.examples) == len(train_by_target.examples), "both models must be able to use the same rows"
    found, train_seconds, pass_seconds = trajectories(args, config, train, proxy_tokenizer, seed)
    num = len(train.examples)
    budget = round(args.budget * num)
    reference = clusters_of(found["snapshots"].losses, config, seed)
    other = clusters_of(found["snapshots"].losses, config, seed + 1000)
    on_row({"seed": seed, "source": "snapshots, other k-means", "agreement": adjusted_rand(reference, other)})
    training, scoring = published.measure(config.proxy, proxy_tokenizer, train.examples, seed)
    plan = whole_corpus_plan(num, config.proxy, None, seed)
    seen = plan.total_steps * plan.global_batch_size
    theirs = seen * training + args.snapshots * num * scoring
    on_row({"seed": seed, "source": "published programs", "points": args.snapshots, "seconds": theirs})

    def measured(chosen: Array) -> dict[str, float]:
        return (
            {"worth": worth(args, config, train_by_target, test, target_tokenizer, chosen, seed)} if args.worth else {}
        )

    for name, of in found.items():
        clusters = clusters_of(of.losses, config, seed)
        inputs = SelectionInputs(train.examples.ids, clusters=clusters)
        chosen = order_examples("s2l", inputs, seed).take(budget).rows
        on_row({
            "seed": seed, "source": name, "points": of.losses.shape[1],
            "seconds": train_seconds + of.scored * pass_seconds,
            "ratio": theirs / (train_seconds + of.scored * pass_seconds),
            "agreement": adjusted_rand(reference, clusters), **measured(chosen),
        })  # fmt: skip
    chosen = order_examples("random", SelectionInputs(train.examples.ids), seed).take(budget).rows
    on_row({"seed": seed, "source": "random", "seconds": 0.0, **measured(chosen)})


def table(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table of means over the seeds, with standard deviations for the held-out loss."""
    lines = ["| source | points | seconds | × published | agreement | held-out loss |", "|---|---|---|---|---|---|"]
    for name in dict.fromkeys(row["source"] for row in rows):
        these = [row for row in rows if row["source"] == name]

        def mean(field: str, digits: int, these: list[dict[str, Any]] = these) -> str:
            values = [row[field] for row in these if field in row]
            spread = f" ± {statistics.stdev(values):.{digits}f}" if field == "worth" and len(values) > 1 else ""
            return f"{statistics.mean(values):.{digits}f}{spread}" if values else ""

        lines.append(
            f"| {name} | {mean('points', 0)} | {mean('seconds', 1)} | {mean('ratio', 1)} | {mean('agreement', 2)} | "
            f"{mean('worth', 4)} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="`quickstart`, or a JSONL file with instruction, output, source")
    parser.add_argument("--recipe", default="quickstart", help="recipe with the proxy, target and clusters to use")
    parser.add_argument("--set", nargs="*", default=[], help="changes to the recipe, section.field=value")
    parser.add_argument("--examples", type=int, default=20_000, help="maximum number of training rows")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--snapshots", type=int, default=12)
    parser.add_argument("--hybrids", type=int, nargs="*", default=[1, 3], help="scored snapshots per hybrid")
    parser.add_argument("--raw", action="store_true", help="also include training losses that are not detrended")
    parser.add_argument("--budget", type=float, default=0.2)
    parser.add_argument("--target-steps", type=int, help="default: as in the recipe")
    parser.add_argument("--no-worth", dest="worth", action="store_false", help="fine-tune no targets")
    parser.add_argument("--threads", type=int, default=local_cores())
    parser.add_argument("--json", help="append each row to this file as soon as it is measured")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    paths = [] if args.corpus == "quickstart" else [f"corpus.paths=[{args.corpus}]"]
    config = load_config(args.recipe, [*paths, *args.set])
    rows: list[dict[str, Any]] = []

    def on_row(row: dict[str, Any]) -> None:
        rows.append(row)
        print(json.dumps(row), flush=True)
        if args.json:
            with Path(args.json).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    for seed in args.seeds:
        one_seed(args, config, seed, on_row)
    print(table(rows))


if __name__ == "__main__":
    main()
