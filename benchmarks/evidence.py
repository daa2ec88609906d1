"""Compare every selector on the quickstart's corpus and on a mixture of maths sources, with and without wrong answers;
generate the manual's evidence page.

    nice -n 19 python benchmarks/evidence.py --maths math/train.jsonl          # resumes where it stopped
    python benchmarks/evidence.py --corpora quickstart --selectors s2l s2l_robust random --references early late
    python benchmarks/evidence.py --write docs/evidence.md                     # the page, from all rows so far

Needs no Ray. For each seed and share of wrong answers, one corpus is generated, and one proxy is trained on it and
scores it; every selector uses the same scores. A target is trained from scratch on each subset, always for the same
number of steps, and with the subset's weights and stages, as in `s2l finetune`. Each arm is one line in the file of
rows, written as soon as it is done: stopping the program loses at most one arm, and rows with other settings are left
alone. The most important arms come first: one budget, three seeds and the main selectors; then the other selectors,
further budgets, further seeds.

    balanced     quickstart: on a test set with the same number of questions per skill; maths: the mean over sources
    distributed  on held-out rows with the corpus's own distribution
    loss         nats per response token; exact: share of responses that greedy decoding reproduces exactly
    wrong        share of wrong answers in the subset

`rds_plus` gets held-out rows, which are in neither test set, as examples of the task; they reveal the distribution.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comparison.arms import COST_IN_STEPS, FULL, Arm, arms_of, choose
from comparison.corpora import Corpus, mixture, quickstart
from comparison.evidence_page import page
from comparison.reference import Reference, train_reference
from comparison.tokens import Tokenised, tokenise, tokenizer_of
from comparison.training import Training, plan_of

from s2l_ray.config import load_config
from s2l_ray.config.schema import S2LConfig
from s2l_ray.data.token_examples import Examples
from s2l_ray.selection import list_selectors

ROWS = Path(__file__).with_name("evidence_rows.jsonl")
MAIN = (FULL, "random", "random_per_source", "s2l", "s2l, α ½", "s2l_robust")
"""Arms that are run first."""
SETTINGS = {
    "quickstart": [
        "clusters.num_clusters=30", "proxy.epochs=1", "target.from_config.hidden_size=64",
        "target.from_config.intermediate_size=160", "target.from_config.num_hidden_layers=2", "target.max_steps=400",
        "target.global_batch_size=32", "target.learning_rate=4e-3",
    ],
    "maths": [
        "clusters.num_clusters=50", "proxy.max_steps=null", "proxy.epochs=1", "proxy.global_batch_size=32",
        "proxy.train_tokenizer.vocab_size=1024", "target.train_tokenizer.vocab_size=1024",
        "target.from_config.hidden_size=64", "target.from_config.intermediate_size=192",
        "target.from_config.num_hidden_layers=2", "target.max_steps=100", "target.global_batch_size=32",
        "target.learning_rate=4e-3",
    ],
}  # fmt: skip
"""Changes to the recipes `quickstart` and `maths_curve`, so that an arm takes some seconds on one core."""
RECIPES = {"quickstart": "quickstart", "maths": "maths_curve"}


@dataclass(frozen=True)
class World:
    """The corpus, seed and share of wrong answers that all arms of one proxy share."""

    corpus: str
    seed: int
    wrong: float

    @property
    def name(self) -> str:
        return f"{self.corpus}-{self.seed}-{self.wrong:g}"


@dataclass(frozen=True)
class Task:
    """One arm at one budget, in one world."""

    world: World
    arm: Arm
    budget: float
    """Share of the corpus; 1 for everything."""

    @property
    def key(self) -> tuple[Any, ...]:
        return (self.world.corpus, self.world.seed, self.world.wrong, self.arm.name, self.budget)


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    return (row["corpus"], row["seed"], row["wrong_answers"], row["arm"], row["budget"])


def overrides(settings: Sequence[str], own: Sequence[str]) -> list[str]:
    """Keep only the last setting of each field, because `load_config` refuses two."""
    return list({setting.partition("=")[0]: setting for setting in [*settings, *own]}.values())


class Bench:
    """Runs arms and returns their rows; holds one world at a time."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.configs = {name: self._config(name) for name in args.corpora}
        self.settings = {
            name: {"examples": args.examples[name], "snapshots": args.snapshots, "set": self._changes(name)}
            for name in args.corpora
        }
        self._world: tuple[World, Loaded] | None = None

    def _changes(self, name: str) -> list[str]:
        """Return the settings in which a corpus differs from its recipe."""
        return overrides([] if self.args.whole else SETTINGS[name], self.args.set)

    def _config(self, name: str) -> S2LConfig:
        paths = [] if name == "quickstart" else [f"corpus.paths=[{self.args.maths}]"]
        return load_config(RECIPES[name], [*paths, *self._changes(name)])

    def arms(self, corpus: str, selectors: Sequence[str]) -> list[Arm]:
        return arms_of(selectors, self.args.references, self.configs[corpus].clusters.num_clusters)

    def tasks(self) -> list[Task]:
        """Return all tasks, the most important first."""
        args = self.args
        early, late = args.seeds[:3], args.seeds[3:]
        first, *further = args.budgets
        phases = [(early, True, [first]), (late, True, [first]), (early, False, [first]), (early, True, further),
                  (early, False, further), (late, False, [first]), (late, True, further),
                  (late, False, further)]  # fmt: skip
        worlds = {seed: [World(corpus, seed, wrong) for corpus in args.corpora for wrong in args.wrong
                         if seed in args.seeds_of[corpus]] for seed in args.seeds}  # fmt: skip
        found: dict[tuple[Any, ...], Task] = {}
        for seeds, are_main, budgets in phases:
            for world in (world for seed in seeds for world in worlds[seed]):
                for budget in budgets:
                    for arm in self.arms(world.corpus, args.selectors):
                        if (arm.name in MAIN) == are_main:
                            task = Task(world, arm, 1.0 if arm.selector == FULL else budget)
                            found.setdefault(task.key, task)
        return list(found.values())

    def run(self, task: Task) -> dict[str, Any]:
        if self._world is None or self._world[0] != task.world:
            self._world = None
            self._world = (task.world, Loaded(self, task.world))
        return self._world[1].run(task) | {"settings": self.settings[task.world.corpus]}


class Loaded:
    """A world with its corpus, test sets and proxy."""

    def __init__(self, bench: Bench, world: World) -> None:
        self.bench, self.world, self.config = bench, world, bench.configs[world.corpus]
        assert self.config.target is not None
        self.target = self.config.target
        self.made = self._corpus()
        self.tokenizer = tokenizer_of(self.config.proxy, self.made.train)
        self.train = tokenise(self.made.train, self.target, self.tokenizer, self.config)
        self.is_wrong = np.array([bool(row.get("is_wrong")) for row in self.made.train])[self.train.kept]
        self.tests = {
            name: tokenise(rows, self.target, self.tokenizer, self.config) for name, rows in self.made.tests.items()
        }

    def _corpus(self) -> Corpus:
        num = self.bench.args.examples[self.world.corpus]
        if self.world.corpus == "quickstart":
            return quickstart(num, self.world.wrong, self.world.seed)
        return mixture(Path(self.bench.args.maths), num, self.world.wrong, self.world.seed)

    @cached_property
    def reference(self) -> Reference:
        """Train the proxy, or load what an earlier session saved for the same settings and references."""
        folder = self.bench.args.work
        folder.mkdir(parents=True, exist_ok=True)
        everything = [selector.name for selector in list_selectors()]
        needs = {need for arm in self.bench.arms(self.world.corpus, everything) for need in arm.needs}
        told = json.dumps([self.bench.settings[self.world.corpus], sorted(needs)])
        path = folder / f"{self.world.name}-{hashlib.sha256(told.encode()).hexdigest()[:8]}.npz"
        if path.exists():
            return Reference.load(path, self.train)
        queries = tokenise(self.made.queries, self.config.proxy, self.tokenizer, self.config).examples
        started = time.process_time()
        made = train_reference(
            self.config, self.tokenizer, self.train, queries, needs, self.world.seed,
            snapshots=self.bench.args.snapshots,
        )  # fmt: skip
        made.save(path)
        print(f"proxy of {self.world.name}: {time.process_time() - started:.0f} CPU seconds", flush=True)
        return made

    def run(self, task: Task) -> dict[str, Any]:
        reference, seed = self.reference, self.world.seed
        num = len(self.train.examples)
        selecting = time.process_time()
        chosen = choose(reference, task.arm, num if task.budget == 1 else round(task.budget * num), seed)
        selecting = time.process_time() - selecting
        steps = self.target.max_steps
        assert steps is not None
        own = reference.cost(task.arm.needs)
        if task.arm.name == COST_IN_STEPS:
            [s2l] = [arm for arm in arms_of(["s2l"]) if arm.name == "s2l"]
            own = reference.cost(s2l.needs)
            steps += round(steps * own.flops / self._training(chosen.examples, steps).expected_flops(chosen.examples))
        started = time.process_time()
        training = self._training(chosen.examples, steps).finish(chosen.examples)
        seconds = time.process_time() - started
        figures = {name: value for test, of in self.tests.items() for name, value in self._figures(training, test, of)}
        return {
            "corpus": self.world.corpus, "seed": seed, "wrong_answers": self.world.wrong, "arm": task.arm.name,
            "budget": task.budget, "examples": len(chosen.rows), "steps": steps, **figures,
            "wrong": float(self.is_wrong[chosen.rows].mean()), **chosen.notes,
            "selection_flops": own.flops, "training_flops": training.work.flops,
            "selection_seconds": round(selecting, 3), "training_seconds": round(seconds, 2),
        }  # fmt: skip

    def _training(self, examples: Examples, steps: int) -> Training:
        plan = plan_of(examples, self.target, steps, self.world.seed)
        return Training(self.target, self.tokenizer, plan, self.world.seed, self.config.heldout.tokens_per_batch)

    def _figures(self, training: Training, test: str, of: Tokenised) -> Iterator[tuple[str, float]]:
        scores = training.scores(of.examples)
        for kind, values in (("", scores.exact), ("_loss", scores.losses)):
            assert values is not None
            yield test + kind, float(values.mean())
            if "balanced" not in self.tests:
                means = [values[of.sources == source].mean() for source in np.unique(of.sources)]
                yield "balanced" + kind, float(np.mean(means))


def earlier_rows(path: Path, settings: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Read the rows with these settings (by corpus), or all for None; skip a line cut short when the program was
    killed."""
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.endswith("}")]
    return [row for row in rows if settings is None or row["settings"] == settings.get(row["corpus"])]


def append(path: Path, row: dict[str, Any]) -> None:
    """Append a row on its own line, even after a line that was cut short."""
    torn = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
    with path.open("a", encoding="utf-8") as file:
        file.write(("\n" if torn else "") + json.dumps(row, ensure_ascii=False) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    known = [FULL, *(selector.name for selector in list_selectors()), COST_IN_STEPS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--corpora", nargs="+", choices=list(RECIPES), help="default: quickstart, and with --maths also maths"
    )
    parser.add_argument("--maths", type=Path, help="JSONL file with the columns instruction, output, source")
    parser.add_argument("--quickstart-examples", type=int, default=8000, help="training rows, including duplicates")
    parser.add_argument("--maths-examples", type=int, default=5000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="for maths, only the first three")
    parser.add_argument("--wrong", type=float, nargs="+", default=[0.0, 0.1], help="shares of wrong answers")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.2, 0.1, 0.4, 0.05], help="the first runs first")
    parser.add_argument("--selectors", nargs="+", default=known, choices=known, metavar="NAME", help="default: all")
    parser.add_argument("--references", nargs="+", default=["late"], choices=["late", "early", "first"])
    parser.add_argument("--snapshots", type=int, default=6)
    parser.add_argument("--whole", action="store_true", help="the recipes' own models and steps: minutes per arm")
    parser.add_argument("--set", nargs="*", default=[], help="more settings for both recipes, section.field=value")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no arm after this many minutes")
    parser.add_argument("--rows", type=Path, default=ROWS, help="file with one line per arm, written as each is done")
    parser.add_argument("--work", type=Path, default=Path("evidence"), help="folder for the proxies' scores")
    parser.add_argument(
        "--write", type=Path, help="only write the page to this file and its pictures beside it, from all rows"
    )
    args = parser.parse_args(arguments)
    if args.write:
        rows = earlier_rows(args.rows)
        args.write.write_text(page(rows), encoding="utf-8")
        from comparison.evidence_pictures import write

        write(rows, args.write.parent)
        return
    args.corpora = args.corpora or ["quickstart"] + ["maths"] * bool(args.maths)
    if "maths" in args.corpora and not args.maths:
        parser.error("--corpora maths needs --maths, the file with the mixture")
    args.examples = {"quickstart": args.quickstart_examples, "maths": args.maths_examples}
    args.seeds_of = {"quickstart": args.seeds, "maths": args.seeds[:3]}
    torch.set_num_threads(args.threads)
    bench = Bench(args)
    done = {key_of(row) for row in earlier_rows(args.rows, bench.settings)}
    started = time.monotonic()
    for task in bench.tasks():
        if task.key in done:
            continue
        if time.monotonic() - started > 60 * args.minutes:
            break
        row = bench.run(task)
        append(args.rows, row)
        print(json.dumps(row, ensure_ascii=False), flush=True)
    print(page(earlier_rows(args.rows, bench.settings)))


if __name__ == "__main__":
    main()
