"""Asks a model in memory the questions of built-in tasks, and judges its answers by the package's rules. No Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from s2l_ray.config.target import TargetConfig
from s2l_ray.data.render import options_of, resolve_style
from s2l_ray.evaluation.answers.symbolic import ProcessComparer
from s2l_ray.evaluation.prompts import PROGRAM_STEM, Form, passes
from s2l_ray.evaluation.questions import Question, first_by_id, read_questions
from s2l_ray.evaluation.sandbox import SandboxSettings
from s2l_ray.evaluation.scoring import READ_GENERATIONS, READ_PROGRAMS, Scored, collect, score
from s2l_ray.evaluation.tasks import BUILT_IN
from s2l_ray.stages.evaluation.part import PartJob, generations_name, programs_name
from s2l_ray.stages.evaluation.worker import EvaluationWorker, ModelJob
from s2l_ray.storage.folder import Storage

from comparison.tokens import FORMAT  # isort: skip


@dataclass(frozen=True)
class InMemory:
    """A model source for the package's code whose model and tokenizer are already in memory."""

    tokenizer: Any
    model: Any

    def load_tokenizer(self) -> Any:
        return self.tokenizer

    def load(self, tokenizer: Any, dtype: Any) -> Any:
        return self.model.to(dtype).eval()


class Asker:
    """Asks models the questions of some tasks, all in one part, so that a GPU's batches are large. A context manager,
    because it holds the process that compares LaTeX."""

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        *,
        limit: int | None,
        form: Form,
        max_new_tokens: int,
        tokens_per_batch: int,
        device: torch.device,
    ) -> None:
        """Args: folder: holds NAME.jsonl for each task; limit: questions per task, the first by id."""
        self.tasks = {name: BUILT_IN[name] for name in names}
        self.questions: dict[str, list[Question]] = {}
        for name, task in self.tasks.items():
            with open(folder / f"{name}.jsonl", encoding="utf-8") as file:
                self.questions[name] = first_by_id(read_questions(task, file, file.name), limit)
        self.form, self.device = form, device
        self.max_new_tokens, self.tokens_per_batch = max_new_tokens, tokens_per_batch
        self._compare = ProcessComparer()

    def __enter__(self) -> Asker:
        if any(task.rule == "math" for task in self.tasks.values()):
            self._compare.start()  # before anything is trained whose answers it could not judge
        return self

    def __exit__(self, *_: object) -> None:
        self._compare.close()

    def ask(self, config: TargetConfig, tokenizer: Any, model: Any, out: Path) -> dict[str, list[Scored | None]]:
        """Return set → the verdicts on its questions, in order; None if a prompt is too long for the model.

        The generated text is left in the folder `out`.
        """
        on_gpu = self.device.type == "cuda"
        job = ModelJob(
            InMemory(tokenizer, model), resolve_style(config.render, FORMAT, tokenizer),  # type: ignore[arg-type]
            options_of(config), False, "bfloat16" if on_gpu else "float32", "gpu" if on_gpu else "cpu", None,
            SandboxSettings(),
        )  # fmt: skip
        worker = EvaluationWorker(job)
        everything = [question for questions in self.questions.values() for question in questions]
        storage = Storage.open(out).recording()
        kinds = passes(self.form, has_programs=True)
        try:
            worker.run(
                PartJob(
                    out.name, 0, everything, kinds, PROGRAM_STEM, self.max_new_tokens, self.tokens_per_batch, 1, 0.0,
                    0, storage,
                )
            )  # fmt: skip
        finally:
            if worker.probe is not None:  # it has started a sandbox
                worker.sandbox().close()
        return self._judged(storage, everything, kinds)

    def _judged(
        self, storage: Storage, everything: list[Question], kinds: Sequence[str]
    ) -> dict[str, list[Scored | None]]:
        names = [generations_name(kind, 0) for kind in kinds]
        generations = [row for table in storage.read_tables(names, READ_GENERATIONS) for row in table.to_pylist()]
        programs = storage.read_table(programs_name(0), READ_PROGRAMS).to_pylist() if "pot" in kinds else []
        answers = {one.question.id: one for one in collect(everything, generations, programs)}
        return {
            name: [
                score(task, answers[question.id], self._compare) if question.id in answers else None
                for question in self.questions[name]
            ]
            for name, task in self.tasks.items()
        }
