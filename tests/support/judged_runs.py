"""Answers to test questions for the targets of a made run: texts are made up by a seed, verdicts and reports are those
of the project's own judging."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.artifacts.manifest import StageManifest, read_manifest, write_manifest
from s2l_ray.artifacts.models import EvaluationArtifact
from s2l_ray.artifacts.outputs import list_outputs
from s2l_ray.artifacts.run import load_run
from s2l_ray.config.custom_task import CustomTaskConfig
from s2l_ray.config.evaluation import BertScoreConfig, ConfidenceConfig, EvaluationConfig
from s2l_ray.evaluation.answers.grading import RULES_VERSION
from s2l_ray.evaluation.prompts import Pass
from s2l_ray.evaluation.questions import Question, first_by_id, read_questions
from s2l_ray.evaluation.tasks import SUMMARY, Task, task_of
from s2l_ray.reporting.write import facts_of, page_of
from s2l_ray.stages.evaluation.part import GENERATION_SCHEMA, PROGRAM_SCHEMA, generations_name, programs_name
from s2l_ray.stages.evaluation.score import Flags, judge
from s2l_ray.stages.evaluation.tasks import AskedTask
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage
from tests.support.report_runs import DATE, MadeRun

_WORDS = ("effusion", "edema", "fracture", "nodule", "opacity", "catheter")


@dataclass
class JudgedModels:
    """What to ask, and how good the models are."""

    made: MadeRun
    tasks: tuple[str, ...] = ("gsm8k", "svamp")
    num_questions: int = 200
    custom: dict[str, CustomTaskConfig] = field(default_factory=dict)
    skills: dict[str, float] = field(default_factory=lambda: {"base": 0.1, "full": 0.6, "s2l": 0.7, "random": 0.5})
    """Selector → share of questions that its targets get right."""
    form: str = "cot"
    topics: tuple[str, ...] = ("algebra", "geometry")
    text: str = ""
    """Added to everything that a model says."""
    contaminated: float = 0.1
    """Share of the questions that are in the corpus; models know those better."""
    engines: dict[str, str] = field(default_factory=dict)
    """Model → its engine, where that is another one."""
    with_base: bool = True
    level: float = 0.95
    right: dict[tuple[str, str, int], list[bool]] = field(init=False, default_factory=dict)
    """Made: (model, task, seed) → what the texts were made to be, by question id."""

    def judge(self) -> None:
        """Answers of all targets, by every seed, and of the model before its training."""
        asked = [self._questions(name) for name in self.tasks]
        models = [("base", 0, fingerprint(["base"]), "base")] if self.with_base else []
        for (label, seed), one in self.made.trained.items():
            manifest = read_manifest(self.made.storage.sub(one["folder"]))
            assert manifest is not None
            models.append((label, seed, manifest.content_fingerprint, label.partition("-")[0]))
        for label, seed, content, selector in models:
            for task, questions in asked:
                self._write(label, seed, content, self.skills.get(selector, 0.5), task, questions)

    def _questions(self, name: str) -> tuple[Task, list[Question]]:
        task = task_of(name, self.custom)
        rows = []
        for i in range(self.num_questions):
            if task.rule == SUMMARY:
                word = _WORDS[i % len(_WORDS)]
                gold = f"No acute {word}." if i % 3 else f"Left {word} of {i} mm."
                rows.append({"findings": f"The {word} is {i} mm wide. Lungs are clear.", "impression": gold,
                             "source": ("iu", "mimic")[i % 2]})  # fmt: skip
            else:
                topic = self.topics[i % len(self.topics)]
                rows.append({"question": f"{name}: what is {i} plus one?", "answer": str(i + 1), "topic": topic,
                             "level": f"Level {i % 3}", "type": topic})  # fmt: skip
        questions = read_questions(task, [json.dumps(row) for row in rows], "made up")
        return task, first_by_id(questions, None)

    def _write(
        self, label: str, seed: int, content: str, skill: float, task: Task, questions: Sequence[Question]
    ) -> None:
        where = f"{label}-{task.name}"
        generation = self.made.storage.sub(f"generation/{where}-{seed:08x}")
        flags = {q.id: i < self.contaminated * len(questions) for i, q in enumerate(questions)}
        self._texts(label, seed, skill, task, questions, flags, generation)
        config = EvaluationConfig(
            tasks=[task.name], bertscore=BertScoreConfig(model=None), custom=self.custom,
            confidence=ConfidenceConfig(resamples=300, level=self.level),
        )  # fmt: skip
        passes: dict[str, tuple[Pass, ...]] = {"cot": ("cot",), "pot": ("pot",), "hybrid": ("pot", "cot")}
        form = self.form if task.has_programs else "cot"
        asked = AskedTask(task, list(questions), passes[form], 100)
        settings = {"form": form, "seed": self.made.config.seed, "rule": task.rule}
        inputs = {"model": content, "corpus": self.made.corpus, "questions": asked.content, "generation": content}
        key = fingerprint([task.name, label, settings, inputs])
        place = f"evaluation/{where}-{key[:8]}"
        out = self.made.storage.sub(place).recording()
        engine = self.engines.get(label, "transformers")
        facts: dict[str, Any] = {
            "model": label,
            "form": self.form,
            "engine": engine,
            "dtype": "float32",
            "device": "cpu",
        }
        judged = judge(asked, generation, Flags(flags, flags), config, 0, dict(facts), out)
        artifact = EvaluationArtifact(
            task=task.name, rules_version=RULES_VERSION, num_questions=judged.num_questions,
            figures=judged.report["figures"], shares=judged.report["shares"], **facts,
        )  # fmt: skip
        manifest = StageManifest(
            stage=f"evaluation/{label}/{task.name}", key=key, settings=settings, inputs=inputs,
            content_fingerprint=judged.content, row_counts={"questions": judged.num_questions},
            outputs=list_outputs(out), started_at=DATE, finished_at=DATE, extra=artifact.model_dump(mode="json"),
        )  # fmt: skip
        write_manifest(out, manifest)

    def _texts(
        self, label: str, seed: int, skill: float, task: Task, questions: Sequence[Question],
        flags: dict[bytes, bool], generation: Storage,
    ) -> None:  # fmt: skip
        """Questions of which all models draw alike how hard they are; a tenth of the wrong texts is cut short."""
        hard = np.random.default_rng(len(task.name)).random(len(questions))
        luck = np.random.default_rng([seed, *label.encode(), len(task.name)]).normal(0, 0.15, len(questions))
        said: dict[Pass, list[dict[str, Any]]] = {"pot": [], "cot": []}
        programs, right = [], []
        for i, question in enumerate(questions):
            good = bool(hard[i] + luck[i] < skill + 0.2 * flags[question.id])
            right.append(good)
            text = question.gold if good else "Normal." if task.rule == SUMMARY else f"{i} and so {i + 5000}"
            if task.rule != SUMMARY:
                text = f"We add. The answer is {text}."
            ended = "eos" if good or i % 10 else "length"
            row = {"question_id": question.id, "task": task.name, "sample": 0, "prompt_ids": [1], "num_new_tokens": 9}
            fails = self.form == "hybrid" and i % 4 == 0
            if self.form != "cot" and task.has_programs:
                said["pot"].append({**row, "pass": "pot", "text": f"print({i})", "finish": "eos"})
                stdout = "" if fails else f"{question.gold if good else i + 5000}\n"
                programs.append({"question_id": question.id, "sample": 0, "source": "print()", "stdout": stdout,
                                 "outcome": "exception" if fails else "ok", "reason": "", "seconds": 0.1})  # fmt: skip
            if self.form == "cot" or fails or not task.has_programs:
                said["cot"].append({**row, "pass": "cot", "text": text + self.text, "finish": ended})
        for kind, rows in said.items():
            if rows:
                generation.write_table(generations_name(kind, 0), pa.Table.from_pylist(rows, GENERATION_SCHEMA))
        if programs:
            generation.write_table(programs_name(0), pa.Table.from_pylist(programs, PROGRAM_SCHEMA))
        self.right[label, task.name, seed] = right


LABELS = [f"{selector}-{budget}" for selector in ("s2l", "random") for budget in (0.1, 0.2)]


def judged_run(folder: Path, seeds: tuple[int, ...] = (0,), both: bool = False, **asked: Any) -> JudgedModels:
    """A run whose models have answered. both: targets of both budgets, otherwise of the smaller alone."""
    labels = LABELS if both else LABELS[::2]
    made = MadeRun(
        folder / "run", num_examples=150, num_clusters=2, budgets=(0.1, 0.2), targets=("full", *labels), seeds=seeds,
        heldout={"split": 40}, topics=("add",), sources=("books",),
    )  # fmt: skip
    made.make()
    models = JudgedModels(made, **asked)
    models.judge()
    return models


def tasks_page(folder: Path) -> tuple[str, dict[str, Any]]:
    """The page without what other tests look at, which takes its time to draw, and its facts."""
    made = facts_of(load_run(str(folder)))
    names = ("worth", "cost", "contents", "clusters", "space", "meaning", "stability", "training")
    rest: dict[str, Any] = {**dict.fromkeys(names), "examples": []}
    made = dataclasses.replace(made, **rest)
    return page_of(made), made.plain()


def found(facts: dict[str, Any], what: str, **wanted: Any) -> dict[str, Any]:
    [row] = [row for row in facts["judged"][what] if wanted.items() <= row.items()]
    return dict(row)
