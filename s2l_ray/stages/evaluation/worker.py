"""The evaluation worker: loads a model once, answers parts of test sets, runs the programs in the answers.

Uses torch, but not Ray. Memory: the model, the cache of a batch (lm.generate), the text of one part.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch

from s2l_ray.data.render import Renderer
from s2l_ray.data.units import UnusableRow
from s2l_ray.evaluation.prompts import Pass, messages
from s2l_ray.evaluation.questions import Question
from s2l_ray.evaluation.sandbox import Sandbox, SandboxSettings, check_node
from s2l_ray.lm.engine import device_name
from s2l_ray.lm.exported import ModelSource
from s2l_ray.lm.generate import Decoding, Generator, window_of
from s2l_ray.lm.vocabulary import name_of, pad_token_id_of
from s2l_ray.stages.evaluation.part import Part, PartJob, sample_seeds


@dataclass(frozen=True)
class ModelJob:
    """The job description that every worker of one model receives."""

    source: ModelSource
    style: Any
    """Style in which prompts are rendered, see data.render.Style."""
    render_options: dict[str, Any]
    with_thoughts: bool
    """Whether responses in training had separate reasoning."""
    dtype: str
    device: str
    """cpu or gpu."""
    threads: int | None
    sandbox: SandboxSettings


class EvaluationWorker:
    """Answers parts. Complete files of an interrupted attempt are not generated again."""

    def __init__(self, job: ModelJob) -> None:
        self.job = job
        if job.threads:
            torch.set_num_threads(job.threads)
        self.device = torch.device("cuda" if job.device == "gpu" else "cpu")
        self.tokenizer = job.source.load_tokenizer()
        self._renderer = Renderer(self.tokenizer, job.style, 1 << 30, **job.render_options)
        self._loaded: Any = None
        self._sandbox: Sandbox | None = None
        self._probe: dict[str, Any] | None = None

    def run(self, part: PartJob) -> dict[str, Any]:
        """Answer a part, write the text to the stage's folder, and return statistics."""
        done = Part(self, part)
        for kind in part.passes:
            if wanted := done.wanted(kind):
                generator = self.generator(part)
                done.take(wanted, generator(wanted.prompts, sample_seeds(wanted, part.seed)))
                done.num_halved += generator.num_halved
            if kind == "pot":
                done.run_programs()
        return done.statistics()

    @property
    def model(self) -> Any:
        """The model, loaded when a part first needs it: a resumed evaluation may not need it."""
        if self._loaded is None:
            dtype = getattr(torch, self.job.dtype)
            self._loaded = self.job.source.load(self.tokenizer, dtype).to(self.device)
        return self._loaded

    @property
    def device_name(self) -> str:
        """The device that generates: `cpu`, or the type of GPU."""
        return device_name(self.device)

    @property
    def end_ids(self) -> list[int]:
        """Tokens that end a completion: those that end a response in training."""
        return self._renderer.end_ids()

    def limits(self) -> tuple[int | None, int]:
        """The model's window (positions; None: unknown), and the number of tokens with an embedding."""
        return window_of(self.model.config), self.model.get_input_embeddings().num_embeddings

    def sandbox(self) -> Sandbox:
        """The sandbox, opened and tested on this node before its first program.

        Raises:
            EvaluationError: this node cannot isolate programs, or lacks packages that they import; no program was run.
        """
        if self._sandbox is None:
            with contextlib.ExitStack() as stack:
                sandbox = stack.enter_context(Sandbox(self.job.sandbox))
                report = sandbox.probe()
                check_node(report, self.job.sandbox)
                stack.pop_all()  # it stays open as long as the worker lives
            self._sandbox, self._probe = sandbox, report.plain()
        return self._sandbox

    @property
    def probe(self) -> dict[str, Any] | None:
        """Report on what the sandbox blocks on this node; None if no program has run."""
        return self._probe

    def prompts(self, questions: list[Question], part: PartJob, kind: Pass) -> list[list[int] | UnusableRow]:
        """Render prompts to ids. They are never truncated: a prompt that exceeds the model's window together with its
        new tokens is unusable, as is one that contains a token without an embedding."""
        batch = [messages(question, kind, part.program_stem) for question in questions]
        window, num_embeddings = self.limits()
        rendered: list[list[int] | UnusableRow] = []
        for ids in self._renderer.prompts(batch, with_thoughts=self.job.with_thoughts):
            if isinstance(ids, UnusableRow):
                pass
            elif window is not None and len(ids) + part.max_new_tokens > window:
                ids = UnusableRow(
                    f"the prompt has {len(ids):,} tokens, and with {part.max_new_tokens:,} new ones it is longer than "
                    f"the model's window of {window:,}; lower evaluation.generation.max_new_tokens"
                )
            elif max(ids) >= num_embeddings:
                ids = UnusableRow(
                    f"the prompt holds the token {name_of(max(ids), self.tokenizer)} (id {max(ids):,}), but none of "
                    f"the model's {num_embeddings:,} embeddings is for it; remove it from question and template"
                )
            rendered.append(ids)
        return rendered

    def generator(self, part: PartJob) -> Generator:
        decoding = Decoding(
            part.max_new_tokens, tuple(self.end_ids), self._pad_id(),
            part.tokens_per_batch, part.temperature,
        )  # fmt: skip
        return Generator(self.model, decoding, self.device)

    def _pad_id(self) -> int:
        return pad_token_id_of(self.tokenizer, self.model.get_input_embeddings().num_embeddings)
