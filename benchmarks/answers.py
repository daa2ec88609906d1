"""Verdicts per second on answers to the maths sets, and rows per second when searching a corpus for test questions.

    python benchmarks/answers.py --questions math/eval          # the folder with gsm8k.jsonl, math.jsonl …
    python benchmarks/answers.py --rows 1000000                 # without the sets: answers of this program's own

A gold is judged as models state it, after a marker and as a program's output, the right one and the next question's.
Answers to MATH that own rules cannot read go to math-verify in a process with limits; how many did is printed. Times
are those of this process on its processor, and of waiting for math-verify.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from s2l_ray.evaluation.answers.grading import grade
from s2l_ray.evaluation.answers.mathematics import Comparison
from s2l_ray.evaluation.answers.symbolic import ProcessComparer
from s2l_ray.evaluation.contamination import QuestionIndex
from s2l_ray.evaluation.tasks import BUILT_IN, MATHS

_OWN = {
    "gsm8k": ["18", "70000", "-10"], "svamp": ["51.0", "0.0"], "numglue": ["12421", "25.93", "B", "Friday"],
    "mathematics": ["831", "[3, 5]", "-20*x", "12 3 0"], "simuleq": ["15", "583.3333"],
    "math": ["\\frac{\\sqrt{3}}{3}", "x^3 + 2x^2 + x", "(0,1]", "9,-7", "2^{2005}", "\\text{Friday}", "525\\pi", "8-i"],
}  # fmt: skip


class Counting:
    """Counts requests to the library, and the seconds spent waiting for it."""

    def __init__(self, compare: ProcessComparer) -> None:
        self.compare, self.calls, self.seconds = compare, 0, 0.0

    def __call__(self, gold: str, answer: str) -> Comparison:
        self.calls += 1
        start = time.perf_counter()
        outcome = self.compare(gold, answer)
        self.seconds += time.perf_counter() - start
        return outcome


def verdicts(task: str, rows: list[tuple[str, str]], compare: Counting) -> str:
    """Print one row of the table; `rows` are questions and golds."""
    rule, times = BUILT_IN[task].rule, []
    for i, (question, gold) in enumerate(rows):
        for stated in (gold, rows[(i + 1) % len(rows)][1]):
            for form, text in (("cot", f"So we add.\nThe answer is ${stated}$."), ("output", stated)):
                start = time.process_time() + compare.seconds
                grade(rule, gold, text, compare, form=form, question=question, task=task)  # type: ignore[arg-type]
                times.append(time.process_time() + compare.seconds - start)
    mean, worst = 1000 * np.mean(times), 1000 * max(times)
    return f"| {task} | {len(times):,} | {mean:.2f} | {worst:.1f} | {compare.calls} |"


def read(folder: Path | None, task: str) -> list[tuple[str, str]]:
    if folder is None:
        return [("", gold) for gold in _OWN[task]]
    with (folder / f"{task}.jsonl").open(encoding="utf-8") as lines:
        return [(row["question"], row["answer"]) for row in map(json.loads, lines)]


def search(num_rows: int) -> str:
    """Rows of a prompt and a response, 240 characters in all as in instruction corpora of maths."""
    rng = np.random.default_rng(0)
    words = np.array(["a", "train", "leaves", "the", "station", "at", "noon", "and", "travels", "to", "town", "with"])
    texts = [" ".join(rng.choice(words, size=22)) for _ in range(2000)]
    index = QuestionIndex([" ".join(rng.choice(words, size=40)) for _ in range(5000)])
    start = time.perf_counter()
    index.scan(texts[i % len(texts)] for i in range(2 * num_rows))
    seconds = time.perf_counter() - start
    return f"{num_rows:,} rows searched for 5,000 questions in {seconds:.1f} s ({num_rows / seconds:,.0f} rows/s)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=Path, help="folder with the sets' files")
    parser.add_argument("--rows", type=int, default=100_000, help="rows of the corpus that is searched")
    arguments = parser.parse_args()
    print("| set | verdicts | ms, mean | ms, worst | asked of math-verify |\n|---|---|---|---|---|")
    with ProcessComparer() as process:
        process("\\frac{1}{2}", "\\frac{2}{4}")  # started before anything is timed
        for task in MATHS:
            print(verdicts(task, read(arguments.questions, task), Counting(process)), flush=True)
    print(search(arguments.rows))


if __name__ == "__main__":
    main()
