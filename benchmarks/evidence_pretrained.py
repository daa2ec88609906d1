"""Compare every selector with a pretrained model on a mixture of maths sources, evaluated on six maths test sets. Needs
one GPU, but neither Ray nor a network.

    python benchmarks/evidence_pretrained.py SmolLM2-135M --data math --out results --minutes 28
    python benchmarks/evidence_pretrained.py SmolLM2-135M --data math --plan            # tokens, FLOPs and minutes
    python benchmarks/evidence_pretrained.py FOLDER --gguf NAME.gguf --data math     # needs the package gguf

The model's folder holds a transformers model with its tokenizer; `--data` holds train.jsonl (instruction, output,
source) and eval/NAME.jsonl. For each seed and share of swapped answers (replaced by another row's from the same
source), one proxy is fine-tuned on the whole corpus and scores it at T snapshots. Every selector uses these scores, and
the pretrained model is fully fine-tuned on each subset, for three epochs (`--epochs`) or for the same number of steps
(`--steps`). Then its loss on held-out rows is measured, and it answers the questions of the test sets: greedy decoding,
zero-shot, with answers extracted and graded as in `s2l evaluate`.

Each arm is a file in OUT/arms, written completely or not at all, and none is run twice, so that machines available for
half an hour can do the work in several sessions. The most important arms come first (20 % and the main selectors, seed
by seed), and with `--minutes` no arm is started that would not finish in time. OUT/evidence.md has the tables, updated
after every arm. A model of this size does not keep a large GPU busy: several processes with the same OUT can share it,
each with its own `--seeds` or `--swapped` and a share of the memory (`--tokens-per-batch`).

The proxy is the model itself, unless `--proxy` names a smaller one with the same tokenizer. Training uses bf16 with
fp32 copies of the weights on a GPU, and fp32 on a CPU.

With SmolLM2-135M, a corpus like the maths mixture and the defaults, there are 199 arms: 82 million tokens and 62 PFLOP
of training, six proxies of 2.6 PFLOP each, and 600 questions per arm. On an H100 that takes 30 minutes: 12 for
training, 2 for the proxies and 16 for the questions. This is an estimate (`--plan`), based on the utilisations that
`gpu.py` measured for Pythia-70M's shape and an assumed 25 ms per decoding step; nobody has run it on a GPU yet.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comparison.arms import FULL, Arm, arms_of, choose
from comparison.asking import Asker
from comparison.corpora import mixture
from comparison.pretrained_arguments import parser, settings_of
from comparison.pretrained_estimate import Estimate
from comparison.pretrained_page import page
from comparison.reference import Reference, train_reference
from comparison.tokens import tokenise
from comparison.training import Training, plan_of

from s2l_ray.config import load_config
from s2l_ray.config.schema import S2LConfig
from s2l_ray.lm.load import load_model, load_tokenizer

BASE = "no fine-tuning"
MAIN = (FULL, "random", "random_per_source", "s2l", "s2l_robust")


@dataclass(frozen=True)
class Task:
    """One arm at one budget, with its seed and share of swapped answers."""

    arm: Arm
    budget: float
    """Share of the corpus; 1 for everything, 0 for the model without fine-tuning."""
    seed: int
    swapped: float

    @property
    def name(self) -> str:
        """Name of the arm's file."""
        arm = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in self.arm.name)
        told = hashlib.blake2b(self.arm.name.encode(), digest_size=2).hexdigest()  # ½ and α are lost in `arm`
        return f"{arm}-{told}-{self.budget:g}-seed{self.seed}-swapped{self.swapped:g}"


def tasks_of(args: argparse.Namespace) -> list[Task]:
    """Return all tasks, the most important first."""
    found = {"": Task(Arm(BASE, FULL), 0, 0, 0.0)}
    first, *further = args.budgets
    main = [name for name in args.selectors if name in MAIN]
    others = [name for name in args.selectors if name not in MAIN]
    for names, budgets in ((main, [first]), (others, [first]), (main, further), (others, further)):
        for seed in args.seeds:
            for swapped in args.swapped:
                for budget in budgets:
                    for arm in arms_of(names, clusters=args.clusters, weights=False):
                        task = Task(arm, 1.0 if arm.selector == FULL else budget, seed, swapped)
                        found.setdefault(task.name, task)
    return list(found.values())


def config_of(args: argparse.Namespace) -> S2LConfig:
    trained = {
        "render": args.render, "max_length": args.max_length, "global_batch_size": args.batch,
        "learning_rate": args.learning_rate, "tokens_per_microbatch": args.tokens_per_batch,
    }  # fmt: skip
    model = {"model": str(args.model), "gguf_file": args.gguf}
    proxy = {"model": str(args.proxy)} if args.proxy else model
    tree = {
        "name": "evidence_pretrained", "run_dir": str(args.out),
        "corpus": {"paths": [str(args.data / "train.jsonl")], "source_column": "source", "drop_columns": ["id"]},
        "proxy": trained | proxy | {"epochs": args.proxy_epochs},
        "trajectories": {"tokens_per_batch": args.tokens_per_batch}, "clusters": {"num_clusters": args.clusters},
        "target": trained | model | {"epochs": args.epochs, "max_steps": args.steps},
        "heldout": {"share": 0.03, "tokens_per_batch": args.tokens_per_batch},
    }  # fmt: skip
    return load_config(tree)


class Bench:
    """Runs arms with the pretrained model; holds the corpus of one seed at a time."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.config = args, config_of(args)
        assert self.config.target is not None
        self.target = self.config.target
        self.device = torch.device("cuda" if torch.cuda.is_available() and not args.cpu else "cpu")
        print(f"reading the tokenizer of {self.target.gguf_file or self.target.model}", flush=True)
        self.tokenizer = load_tokenizer(self.target)
        self._models: dict[str, Any] = {}
        self._world: tuple[tuple[int, float], World] | None = None

    def fresh(self, section: str) -> Any:
        """Return a copy of the pretrained model on the CPU; its files are read only once."""
        trained = self.config.proxy if section == "proxy" and self.args.proxy else self.target
        key = str(trained.model)
        if key not in self._models:
            what = f"{key}/{trained.gguf_file}, converted from GGUF" if trained.gguf_file else key
            print(f"reading {what}", flush=True)  # it may take minutes
            self._models[key] = load_model(trained, self.tokenizer, 0)
        return copy.deepcopy(self._models[key])

    def world(self, seed: int, swapped: float) -> World:
        if self._world is None or self._world[0] != (seed, swapped):
            self._world = None
            self._world = ((seed, swapped), World(self, seed, swapped))
        return self._world[1]

    def run(self, task: Task, asker: Asker) -> dict[str, Any]:
        world = self.world(task.seed, task.swapped)
        clock = Clock()
        row: dict[str, Any] = {"arm": task.arm.name, "budget": task.budget, "seed": task.seed, "swapped": task.swapped}
        if task.budget == 0:
            training = Training(
                self.target, self.tokenizer, plan_of(world.train.examples, self.target, 1, 0), 0,
                self.args.tokens_per_batch, device=self.device, model=self.fresh("target"),
            )  # fmt: skip
        else:
            num = len(world.train.examples)
            reference = world.reference if task.arm.needs else world.without_proxy
            clock.lap("proxy")
            size = num if task.budget == 1 else round(task.budget * num)
            chosen = choose(reference, task.arm, size, task.seed)
            clock.lap("selection")
            plan = plan_of(chosen.examples, self.target, self.args.steps, task.seed)
            training = Training(
                self.target, self.tokenizer, plan, task.seed, self.args.tokens_per_batch, device=self.device,
                model=self.fresh("target"),
            ).finish(chosen.examples)  # fmt: skip
            cost = world.reference.cost(task.arm.needs) if task.arm.needs else None
            row |= {
                "examples": len(chosen.rows), "steps": plan.total_steps, **chosen.notes,
                "wrong": float(world.is_wrong[chosen.rows].mean()), "training_tokens": training.work.tokens,
                "training_flops": training.work.flops, "selection_flops": cost.flops if cost else 0,
            }  # fmt: skip
            clock.lap("training")
        losses = training.scores(world.test.examples).losses
        clock.lap("scoring")
        verdicts = asker.ask(
            self.target, self.tokenizer, training.for_generation(), self.args.out / "answers" / task.name
        )
        clock.lap("asking")
        return row | {
            "losses": [round(float(loss), 5) for loss in losses], "sources": world.test.sources.tolist(),
            "right": {name: [bool(v and v.grade.correct) for v in found] for name, found in verdicts.items()},
            "reasons": {name: [v.grade.reason if v else "not asked" for v in found]
                        for name, found in verdicts.items()},
            "seconds": clock.laps, "device": str(self.device),
        }  # fmt: skip


class Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self._last = round(now - self._last, 2), now


def proxy_path(out: Path, seed: int, swapped: float) -> Path:
    """Return the path of a proxy's scores."""
    return out / "proxies" / f"seed{seed}-swapped{swapped:g}.npz"


class World:
    """The corpus and proxy that all arms with one seed and share of swapped answers use."""

    def __init__(self, bench: Bench, seed: int, swapped: float) -> None:
        self.bench, self.seed, self.swapped = bench, seed, swapped
        args, tokenizer = bench.args, bench.tokenizer
        self.made = mixture(args.data / "train.jsonl", args.examples, swapped, seed, args.held_out)
        self.train = tokenise(self.made.train, bench.target, tokenizer, bench.config)
        self.test = tokenise(self.made.tests["distributed"], bench.target, tokenizer, bench.config)
        self.is_wrong = np.array([row["is_wrong"] for row in self.made.train])[self.train.kept]

    @cached_property
    def without_proxy(self) -> Reference:
        """Return a reference without scores, for selectors that read none."""
        num = len(self.train.examples)
        return Reference(self.train, [1], np.zeros((num, 1), np.float32), np.zeros(num, np.int32), {})

    @cached_property
    def reference(self) -> Reference:
        """Train the proxy, or load what an earlier session saved next to the arms."""
        bench, args = self.bench, self.bench.args
        path = proxy_path(args.out, self.seed, self.swapped)
        if path.exists():
            return Reference.load(path, self.train)
        print(f"training the proxy of seed {self.seed} with {self.swapped:.0%} swapped answers", flush=True)
        queries = tokenise(self.made.queries, bench.target, bench.tokenizer, bench.config).examples
        needs = {need for arm in arms_of(args.selectors) for need in arm.needs}
        made = train_reference(
            bench.config, bench.tokenizer, self.train, queries, needs, self.seed, snapshots=args.snapshots,
            device=bench.device, model=bench.fresh("proxy"),
        )  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        made.save(path)
        return made


def finished(folder: Path, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the arms that are done, by name.

    Raises:
        SystemExit: an arm was run with other settings; tables must not mix them.
    """
    found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("arms/*.json"))}
    for name, row in found.items():
        other = {key: value for key, value in row["settings"].items() if settings.get(key) != value}
        if other:
            key = next(iter(other))
            raise SystemExit(
                f"{folder}/arms/{name}.json was made with {key}={other[key]!r}, but now it is {settings.get(key)!r}, "
                "so its results could not be compared with new ones; choose another --out"
            )
    return found


def write_whole(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def write_tables(out: Path, settings: dict[str, Any]) -> None:
    """Write OUT/evidence.md from all arms, including those that another process finishes meanwhile: of two pages that
    are made at the same time, the one of fewer arms may be written last."""
    done, others = finished(out, settings), True
    while others:
        write_whole(out / "evidence.md", page(list(done.values())))
        now = finished(out, settings)
        others, done = now.keys() != done.keys(), now


def main(arguments: Sequence[str] | None = None) -> None:
    started = time.monotonic()
    args = parser(__doc__).parse_args(arguments)
    tasks, settings = tasks_of(args), settings_of(args)
    if args.table:
        write_tables(args.out, settings)
        return
    done = finished(args.out, settings)
    left = [task for task in tasks if task.name not in done]
    bench = Bench(args)
    estimate = Estimate.of(bench.fresh("target"), bench.world(args.seeds[0], 0.0).train.examples, args)
    proxies = {proxy_path(args.out, task.seed, task.swapped) for task in left if task.arm.needs}
    print(estimate.text([task.budget for task in left], sum(not path.exists() for path in proxies)), flush=True)
    if args.plan:
        return
    with Asker(
        args.data / "eval", args.sets, limit=args.questions, form=args.form, max_new_tokens=args.max_new_tokens,
        tokens_per_batch=args.answer_tokens_per_batch, device=bench.device,
    ) as asker:  # fmt: skip
        longest = 0.0
        for task in left:
            if (args.out / "arms" / f"{task.name}.json").exists():
                continue  # made by another process meanwhile
            begun = time.monotonic()
            if begun - started + longest > 60 * args.minutes:
                print(f"{args.minutes:g} minutes are over; run the same command to resume", flush=True)
                break
            row = bench.run(task, asker) | {"settings": settings}
            write_whole(args.out / "arms" / f"{task.name}.json", json.dumps(row, ensure_ascii=False))
            write_tables(args.out, settings)
            longest = max(longest, time.monotonic() - begun)
            right = [np.mean(values) for values in row["right"].values()]
            print(f"{task.name}: loss {np.mean(row['losses']):.3f}, {np.mean(right):.1%} right, "
                  f"{time.monotonic() - begun:.0f} s", flush=True)  # fmt: skip
    write_tables(args.out, settings)
    print((args.out / "evidence.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
