"""The arguments of `evidence_pretrained.py`, and which of them an arm's results depend on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from comparison.arms import FULL
from s2l_ray.evaluation.tasks import MATHS
from s2l_ray.selection import list_selectors

_NO_SETTINGS = (
    "out",
    "minutes",
    "plan",
    "table",
    "cpu",
    "seeds",
    "swapped",
    "budgets",
    "selectors",
    "tokens_per_batch",
    "answer_tokens_per_batch",
)
"""Arguments that determine which arms are run, or where; an arm's results depend on all the others."""


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    return {name: value if isinstance(value, int | float | list | None) else str(value)
            for name, value in sorted(vars(args).items()) if name not in _NO_SETTINGS}  # fmt: skip


def parser(about: str | None) -> argparse.ArgumentParser:
    known = [FULL, *(selector.name for selector in list_selectors())]
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("model", type=Path, help="folder with the model and its tokenizer")
    made.add_argument("--gguf", help="GGUF file in that folder, if it has the weights")
    made.add_argument("--proxy", type=Path, help="folder of a smaller model with the same tokenizer")
    made.add_argument("--data", type=Path, required=True, help="folder with train.jsonl and eval/")
    made.add_argument("--out", type=Path, default=Path("evidence_pretrained"))
    made.add_argument("--selectors", nargs="+", default=known, choices=known, metavar="NAME", help="default: all")
    made.add_argument("--budgets", type=float, nargs="+", default=[0.2, 0.1], help="the first runs first")
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    made.add_argument("--swapped", type=float, nargs="+", default=[0.0, 0.1], help="shares of swapped answers")
    made.add_argument("--examples", type=int, default=4000, help="maximum number of training rows")
    made.add_argument("--held-out", type=int, default=300)
    made.add_argument("--epochs", type=float, default=3.0, help="passes over a subset")
    made.add_argument("--steps", type=int, help="steps on every subset, instead of epochs")
    made.add_argument("--proxy-epochs", type=float, default=1.0)
    made.add_argument("--snapshots", type=int, default=6)
    made.add_argument("--clusters", type=int, default=100)
    made.add_argument("--batch", type=int, default=64, help="examples per step")
    made.add_argument("--learning-rate", type=float, default=3e-4)
    made.add_argument("--max-length", type=int, default=512)
    made.add_argument("--render", default="alpaca", choices=["alpaca", "plain", "chat_template"])
    made.add_argument("--sets", nargs="+", default=list(MATHS), choices=MATHS, metavar="NAME", help="default: all six")
    made.add_argument("--questions", type=int, default=100, help="questions per set, the first by id")
    made.add_argument("--form", default="cot", choices=["cot", "pot", "hybrid"], help="programs need Landlock")
    made.add_argument("--max-new-tokens", type=int, default=128)
    made.add_argument("--tokens-per-batch", type=int, default=65_536, help="in training and scoring")
    made.add_argument("--answer-tokens-per-batch", type=int, default=262_144, help="prompts and their answers")
    made.add_argument("--minutes", type=float, default=float("inf"), help="start nothing that would end later")
    made.add_argument("--cpu", action="store_true", help="even if there is a GPU")
    made.add_argument("--plan", action="store_true", help="only print what all arms would cost")
    made.add_argument("--table", action="store_true", help="only write the tables")
    return made
