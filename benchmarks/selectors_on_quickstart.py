"""All selectors on the quickstart's generator, with and without wrong answers: what targets trained on them answer.

    nice -n 15 python benchmarks/selectors_on_quickstart.py --json rows.jsonl     # goes on where it stopped
    python benchmarks/selectors_on_quickstart.py --wrong 0.1 --selectors s2l s2l_robust random --references early late

No Ray. For each seed and share of wrong answers one corpus is generated and one proxy trained and scored as the recipe
says; every selector chooses from the same scores; a target is fine-tuned from scratch on each choice, for the same
number of steps. Weights and stages are heeded, as `s2l finetune` does.

    balanced     exact match of the target on a test with equally many questions of every skill
    distributed  exact match on held-out rows, distributed as the corpus
    wrong        share of wrong answers in the subset

`rds_plus` is given held-out rows as examples of the task, which are in neither test; they tell it the distribution.
The corpus is synthetic, its noise symmetric (another answer of the same skill), the models tiny: see what a selector is
sensitive to, not which one is best on other data.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from trajectory_sources import (
    CPU,
    Tokenised,
    Training,
    clusters_of,
    tokenise,
    tokenizer_of,
    whole_corpus_plan,
)

from s2l_ray.config import load_config
from s2l_ray.config.schema import S2LConfig
from s2l_ray.data.curriculum import CurriculumPlan
from s2l_ray.data.quickstart import generate_corpus
from s2l_ray.data.token_examples import Examples
from s2l_ray.data.training_order import TrainPlan
from s2l_ray.lm.embed import Embedder, without_prompts
from s2l_ray.lm.engine import TorchEngine
from s2l_ray.lm.load import load_model
from s2l_ray.lm.packing import choose_batching
from s2l_ray.lm.score import ExampleScores, Scorer
from s2l_ray.lm.step import Stepper
from s2l_ray.lm.vocabulary import pad_token_id_of
from s2l_ray.selection import (
    ArrayEmbeddings,
    SelectionInputs,
    cluster_weights,
    list_selectors,
    needs_of,
    order_examples,
    resolve_options,
)
from s2l_ray.selection.signals import EMBEDDINGS, LOSS, LOSS_UNCONDITIONAL, SCALARS, snapshot_index

FULL = "everything"
NUM_QUERIES = 100
EARLY_SHARE = 0.1
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Arm:
    """A selector with its options; `name` in the table."""

    name: str
    selector: str
    options: dict[str, Any] = field(default_factory=dict)


def arms(args: argparse.Namespace) -> list[Arm]:
    found = [Arm(FULL, FULL)] if FULL in args.selectors else []
    for name in (name for name in args.selectors if name != FULL):
        fields = resolve_options(name).__class__.model_fields
        own = {"num_clusters": args.clusters} if name == "embedding_kmeans" else {}
        if "reference" not in fields:
            found.append(Arm(name, name, own))
        found += [
            Arm(name if reference == "late" else f"{name}, {reference}", name, own | {"reference": reference})
            for reference in args.references
            if "reference" in fields
        ]
        if name == "s2l":
            found += [
                Arm("s2l, α ½", name, {"allocation_exponent": 0.5}),
                Arm("s2l, weights", name, {"weights": "cluster"}),
            ]
    return found


@dataclass(frozen=True)
class Corpus:
    train: list[dict[str, Any]]
    balanced: list[dict[str, Any]]
    distributed: list[dict[str, Any]]
    queries: list[dict[str, Any]]


def corpus(num: int, wrong: float, seed: int) -> Corpus:
    """`num` training rows less their copies; everything that is held out is right."""
    held = max(2 * NUM_QUERIES, num // 20 + NUM_QUERIES)
    noisy, test = generate_corpus(num + held, seed=seed, wrong_answer_share=wrong)
    clean, _ = generate_corpus(num + held, seed=seed)
    train = list({(row["instruction"], row["output"]): row for row in noisy[:num]}.values())
    seen = {row["instruction"] for row in train}
    unseen = list({row["instruction"]: row for row in clean[num:] if row["instruction"] not in seen}.values())
    return Corpus(train, test, unseen[NUM_QUERIES:], unseen[:NUM_QUERIES])


class Reference:
    """A proxy's scores of the corpus at T snapshots, and the passes that selectors ask for."""

    def __init__(self, args: argparse.Namespace, config: S2LConfig, made: Corpus, needs: set[str], seed: int) -> None:
        self.tokenizer = tokenizer_of(config.proxy, made.train)
        self.train = tokenise(made.train, config.proxy, self.tokenizer, config)
        queries = tokenise(made.queries, config.proxy, self.tokenizer, config)
        plan = whole_corpus_plan(len(self.train.examples), config.proxy, None, seed)
        self.steps = [int(step) for step in np.linspace(1, plan.total_steps, args.snapshots).round()]
        self.signals: dict[str, Array] = {}
        self.embeddings: dict[str, ArrayEmbeddings] = {}
        self.queries: dict[str, Array] = {}
        scores: list[ExampleScores] = []
        training = Training(config.proxy, self.tokenizer, plan, config.trajectories.tokens_per_batch)
        for step, _, _ in training.steps(self.train.examples):
            if step in self.steps:
                scores.append(training.scorer(self.train.examples))
                for need in sorted(needs):
                    column, _, snapshot = need.partition("@")
                    if snapshot and self._index(snapshot) == self.steps.index(step):
                        self._score(need, column, training.scorer, scores[-1], queries.examples)
        self.losses = np.stack([one.losses for one in scores], axis=1)
        self.every = {f"{name}@all": np.stack([one.signals[name] for one in scores], axis=1) for name in SCALARS}
        self.clusters = clusters_of(self.losses, config, seed)

    def _index(self, snapshot: str) -> int | None:
        return snapshot_index(snapshot, len(self.steps), self.steps, EARLY_SHARE)

    def _score(self, need: str, column: str, scorer: Scorer, scores: ExampleScores, queries: Examples) -> None:
        examples = self.train.examples
        if column in SCALARS:
            self.signals[need] = scores.signals[column]
        elif column == LOSS_UNCONDITIONAL:
            self.signals[need] = scorer(without_prompts(examples, self.tokenizer.eos_token_id)).losses
        elif column in EMBEDDINGS:
            embed = Embedder(
                column, scorer.loss, scorer.batching, tokens_per_batch=scorer.tokens_per_batch, device=CPU
            )  # fmt: skip
            self.embeddings[need] = ArrayEmbeddings(embed(examples).astype(np.float16))
            self.queries[need] = embed(queries)
        else:
            assert column == LOSS, need

    def inputs(self, needs: frozenset[str]) -> SelectionInputs:
        names, codes = np.unique(self.train.sources, return_inverse=True)
        embedded = [self.queries[need] for need in sorted(needs) if need in self.queries]
        return SelectionInputs(
            self.train.examples.ids, self.clusters, codes.astype(np.int32), names.tolist(), losses=self.losses,
            snapshot_steps=self.steps, early_share=EARLY_SHARE, signals=self.signals | self.every,
            embeddings=self.embeddings, query_embeddings=embedded[0] if embedded else None,
        )  # fmt: skip


def choose(reference: Reference, arm: Arm, budget: int, seed: int) -> tuple[Array, Examples, dict[str, Any]]:
    """(rows (n,), the marks of the examples: weights and stages beside empty tokens, notes)."""
    options = resolve_options(arm.selector, arm.options)
    ordering = order_examples(arm.selector, reference.inputs(needs_of(arm.selector, options)), seed, options, budget)
    taken = ordering.take(budget)
    weighted = getattr(options, "weights", "none") == "cluster"
    chosen = replace(
        reference.train.examples.take(taken.rows),
        weights=cluster_weights(ordering, taken, getattr(options, "weights_cap", 10.0)) if weighted else None,
        stages=None if ordering.stage is None else ordering.stage[taken.rows],
    )
    dropped = None if ordering.guard is None else ordering.guard.num_dropped
    return taken.rows, chosen, {"guard_dropped": dropped, "ineligible": taken.num_ineligible}


class Target:
    """Fine-tuned from scratch, then asked."""

    def __init__(self, config: S2LConfig, tokenizer: Any, chosen: Examples, steps: int, seed: int) -> None:
        assert config.target is not None
        base = whole_corpus_plan(len(chosen), config.target, steps, seed)
        plan: TrainPlan | CurriculumPlan = base
        if chosen.stages is not None:
            plan = CurriculumPlan(base, (tuple(np.bincount(chosen.stages).tolist()),), cumulative=True)
        model = load_model(config.target, tokenizer, seed)
        engine = TorchEngine(model, config.target, CPU, 1)
        pad_id = pad_token_id_of(tokenizer, model.get_input_embeddings().num_embeddings)
        batching = choose_batching(model, engine.loss, pad_id=pad_id, device=CPU)
        stepper = Stepper(engine, config.target, total_steps=steps, seed=seed, batching=batching, device=CPU)
        for step, batch in plan.batches(0, (chosen for _ in plan.windows_from(0))):
            stepper.step(step, batch)
        self._scorer = Scorer(engine.loss, batching, tokens_per_batch=config.heldout.tokens_per_batch, device=CPU)

    def exact(self, test: Tokenised) -> float:
        """Share of tests whose whole answer is right."""
        plan = self._scorer.plan(test.examples.lengths)
        found = self._scorer.score(test.examples, plan, want_exact=True).exact
        assert found is not None
        return float(found.mean())


def one_world(
    args: argparse.Namespace, config: S2LConfig, seed: int, wrong: float, wanted: list[Arm]
) -> Iterator[dict[str, Any]]:
    """One seed and share of wrong answers → a row for each arm."""
    assert config.target is not None
    made = corpus(args.examples, wrong, seed)
    needs = {
        need for arm in wanted if arm.selector != FULL
        for need in needs_of(arm.selector, resolve_options(arm.selector, arm.options))
    }  # fmt: skip
    reference = Reference(args, config, made, needs, seed)
    is_wrong = np.array([bool(row.get("is_wrong")) for row in made.train])
    tests = {name: tokenise(getattr(made, name), config.target, reference.tokenizer, config)
             for name in ("balanced", "distributed")}  # fmt: skip
    num = len(reference.train.examples)
    assert num == len(made.train), "every row must have a response"
    for arm in wanted:
        notes: dict[str, Any] = {}
        rows, chosen = np.arange(num), reference.train.examples
        if arm.selector != FULL:
            rows, chosen, notes = choose(reference, arm, round(args.budget * num), seed)
        target = Target(config, reference.tokenizer, chosen, args.target_steps, seed)
        exact = {name: target.exact(test) for name, test in tests.items()}
        yield {"seed": seed, "wrong_answers": wrong, "arm": arm.name, "examples": len(rows), **exact,
               "wrong": float(is_wrong[rows].mean()), **notes}  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown; mean ± standard deviation over the seeds."""
    shares = sorted({row["wrong_answers"] for row in rows})
    head = [f"{share:.0%} wrong: {what}" for share in shares for what in ("balanced", "distributed")]
    head += [f"wrong rows in the subset at {share:.0%}" for share in shares if share]
    lines = ["| selector | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    for arm in dict.fromkeys(row["arm"] for row in rows):

        def cell(share: float, column: str, arm: str = arm) -> str:
            values = [row[column] for row in rows if (row["arm"], row["wrong_answers"]) == (arm, share)]
            if not values or column == "wrong":
                return f"{statistics.mean(values):.0%}" if values else ""
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            return f"{statistics.mean(values):.3f}{spread}"

        cells = [cell(share, what) for share in shares for what in ("balanced", "distributed")]
        cells += [cell(share, "wrong") for share in shares if share]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def earlier_rows(path: Path | None, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Of the same settings."""
    if path is None or not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if row["settings"] == settings]


def main() -> None:
    known = [FULL, *(selector.name for selector in list_selectors())]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=10_000, help="training rows, copies included")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--wrong", type=float, nargs="*", default=[0.0, 0.1], help="shares of wrong answers")
    parser.add_argument("--selectors", nargs="+", default=known, choices=known, metavar="NAME", help="default: all")
    parser.add_argument("--references", nargs="+", default=["late"], choices=["late", "early", "first"])
    parser.add_argument("--budget", type=float, default=0.2, help="share")
    parser.add_argument("--snapshots", type=int, default=8)
    parser.add_argument("--clusters", type=int, default=30)
    parser.add_argument("--target-steps", type=int, default=600)
    parser.add_argument("--set", nargs="*", default=[], help="settings of the quickstart recipe, section.field=value")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write each row here as it is made; rows that are there are kept")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    own = [f"clusters.num_clusters={args.clusters}", "target.from_config.hidden_size=64",
           "target.from_config.intermediate_size=160", "target.from_config.num_hidden_layers=2"]  # fmt: skip
    config = load_config("quickstart", [*own, *args.set])
    settings = {name: getattr(args, name) for name in ("examples", "budget", "snapshots", "target_steps", "clusters")}
    settings["set"] = args.set
    rows = earlier_rows(args.json, settings)
    for seed in args.seeds:
        for wrong in args.wrong:
            done = {row["arm"] for row in rows if (row["seed"], row["wrong_answers"]) == (seed, wrong)}
            wanted = [arm for arm in arms(args) if arm.name not in done]
            for row in one_world(args, config, seed, wrong, wanted) if wanted else ():
                rows.append({**row, "settings": settings})
                print(json.dumps(row), flush=True)
                if args.json:
                    with args.json.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
