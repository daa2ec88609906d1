"""Generates completions with vLLM through Ray Data: prompt ids in, token ids out. Only this module imports
ray.data.llm.

A pass over a task is one execution of Ray Data: its engines start, generate what does not exist yet, and stop. Parts
are the same as for transformers, and each is written when its last completion has arrived.

Memory: the driver holds the prompts of a pass and the completions of unfinished parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pyarrow as pa

from s2l_ray.data.units import UnusableRow
from s2l_ray.errors import foreign_named
from s2l_ray.evaluation.errors import EvaluationError
from s2l_ray.evaluation.prompts import Pass
from s2l_ray.execution.failures import unwrap_task_errors
from s2l_ray.execution.placement import Placement
from s2l_ray.lm.exported import ModelSource
from s2l_ray.lm.generate import Generated, window_of
from s2l_ray.stages.evaluation.engines import Engine
from s2l_ray.stages.evaluation.part import Part, PartJob, Wanted, sample_seeds
from s2l_ray.stages.evaluation.worker import EvaluationWorker, ModelJob

BATCH = 128
"""Number of prompts that Ray Data passes to an engine at once; eight such batches are in flight, which fills vLLM's."""
_STAGE = "vLLMEngineStage"
_CURE = (
    "Completed work is kept: run the same command to resume; if vLLM does not support the model or the card, set "
    "evaluation.generation.engine=transformers"
)


class PromptWriter(EvaluationWorker):
    """Renders prompts and writes parts in a process that loads no weights."""

    def __init__(self, job: ModelJob, card: str) -> None:
        super().__init__(job)
        self._card = card

    @property
    def device_name(self) -> str:
        return self._card

    @cached_property
    def _limits(self) -> tuple[int | None, int]:
        config = self.job.source.load_config()
        return window_of(config), config.get_text_config().vocab_size

    def limits(self) -> tuple[int | None, int]:
        return self._limits

    def longest(self, parts: Sequence[PartJob], kind: Pass) -> int:
        """Length of the longest prompt of all parts plus its new tokens (tokens), whatever exists already."""
        prompts = (ids for part in parts for ids in self.prompts(part.questions, part, kind))
        return parts[0].max_new_tokens + max(len(ids) for ids in prompts if not isinstance(ids, UnusableRow))


@dataclass(frozen=True)
class Request:
    """Turns a row of prompts into the row that vLLM's stage reads, see vllm.SamplingParams."""

    max_new_tokens: int
    end_ids: tuple[int, ...]
    temperature: float

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        sampling: dict[str, Any] = {
            "temperature": self.temperature, "max_tokens": self.max_new_tokens, "detokenize": False,
            # A completion ends with the tokens that end responses in training, whatever the model's folder says.
            "stop_token_ids": list(self.end_ids), "ignore_eos": True,
        }  # fmt: skip
        if self.temperature > 0:
            sampling["seed"] = int(row["seed"])
        return {"tokenized_prompt": [int(token) for token in row["prompt_ids"]], "sampling_params": sampling}


def answer(row: Mapping[str, Any]) -> dict[str, Any]:
    """Keep only the needed columns of a row from vLLM's stage."""
    return {"row": row["row"], "new_ids": [int(token) for token in row["generated_tokens"]]}


def rows_of(waiting: Sequence[Wanted], seed: int) -> list[pa.Table]:
    """Tables of `row`, `prompt_ids` and `seed` for all requested completions, numbered consecutively; one per batch."""
    prompts = [ids for wanted in waiting for ids in wanted.prompts]
    seeds = [int.from_bytes(one[:8], "big") >> 1 for wanted in waiting for one in sample_seeds(wanted, seed)]
    table = pa.table(
        {
            "row": pa.array(range(len(prompts)), pa.int64()),
            "prompt_ids": pa.array(prompts, pa.list_(pa.int32())),
            "seed": pa.array(seeds, pa.int64()),
        }
    )
    return [table.slice(start, BATCH) for start in range(0, len(prompts), BATCH)]


def completion_of(new_ids: Sequence[int], end_ids: Sequence[int], max_new_tokens: int) -> Generated:
    """The completion that vLLM has generated, with the reason for its end, which Ray Data does not pass on.

    Raises:
        EvaluationError: generation ended neither at an end token nor at the limit.
    """
    end = next((i for i, token in enumerate(new_ids) if token in end_ids), None)
    if end is not None:
        return Generated(tuple(new_ids[:end]), "eos")
    if len(new_ids) != max_new_tokens:
        raise EvaluationError(
            f"vLLM ended a completion after {len(new_ids):,} tokens, which is neither the limit of {max_new_tokens:,} "
            "nor at a token that ends a response, so it would be judged as truncated. Set "
            "evaluation.generation.engine=transformers, and please report this"
        )
    return Generated(tuple(new_ids), "length")


def model_of(source: ModelSource) -> tuple[str, dict[str, Any]]:
    """The location from which vLLM loads the model, and the engine's arguments for loading it."""
    trusts = {"trust_remote_code": source.config.trust_remote_code}
    if source.exported is not None:
        return source.exported.locator(), trusts
    assert source.config.model is not None
    return source.config.model, {**trusts, "revision": source.config.revision}


def processor_config(source: ModelSource, engine: Engine, placement: Placement, longest: int, num_rows: int) -> Any:
    """Ray's configuration for the engines, without any other stages.

    Args:
        longest: length of the longest prompt plus its new tokens (tokens).
    """
    from ray.data.llm import vLLMEngineProcessorConfig

    where, arguments = model_of(source)
    workers = min(placement.num_workers, math.ceil(num_rows / BATCH))
    return vLLMEngineProcessorConfig(
        model_source=where,
        engine_kwargs={
            **arguments, "dtype": engine.dtype, "max_model_len": longest,
            "tensor_parallel_size": int(placement.gpus_per_worker),
            "skip_tokenizer_init": True,  # ids in, ids out
            "generation_config": "vllm",  # not the model's, whose penalties and end tokens differ from training
            "enable_prefix_caching": False,  # cache hits would depend on what is resumed
            "disable_log_stats": True,
        },
        batch_size=BATCH, concurrency=(workers, workers), accelerator_type=placement.accelerator_type,
        runtime_env={"env_vars": {"VLLM_BATCH_INVARIANT": "1" if engine.batch_invariant else "0"}},
        chat_template_stage=False, tokenize_stage=False, detokenize_stage=False, prepare_multimodal_stage=False,
        should_continue_on_error=False, log_engine_metrics=False,
    )  # fmt: skip


def remote_options(placement: Placement, max_failures: int) -> dict[str, Any]:
    """Ray's options for the engines' actors; vLLM itself places engines with several GPUs.

    Args:
        max_failures: how often an engine that has died is restarted; -1: no limit.
    """
    custom = dict(placement.custom_resources)
    options = {"max_restarts": max_failures, "max_task_retries": max_failures}
    if placement.gpus_per_worker > 1:
        return options
    memory = {"memory": custom.pop("memory")} if "memory" in custom else {}
    return {**options, "num_cpus": placement.cpus_per_worker, **memory, **({"resources": custom} if custom else {})}


def generated_by_vllm(
    tables: list[pa.Table], config: Any, request: Request, options: dict[str, Any], what: str
) -> Iterator[tuple[int, list[int]]]:
    """Yield (row, new tokens) for every row, as soon as it is generated.

    Raises:
        EvaluationError: an engine cannot start, or failed too often.
    """
    import ray
    from ray.data.llm import build_processor

    with foreign_named(EvaluationError, f"vLLM could not answer {what}", _CURE), unwrap_task_errors():
        processor = build_processor(config, preprocess=request, postprocess=answer)
        processor.get_stage_by_name(_STAGE).map_batches_kwargs.update(options)
        for row in processor(ray.data.from_arrow(tables)).iter_rows():
            yield int(row["row"]), [int(token) for token in row["new_ids"]]


Generates = Callable[[list[pa.Table], Any, Request, dict[str, Any], str], Iterator[tuple[int, list[int]]]]
"""A function that generates (row, new tokens) from prompts, in any order."""


@dataclass(frozen=True)
class VllmTask:
    """Generates one model's answers to one task with vLLM."""

    job: ModelJob
    engine: Engine
    placement: Placement
    card: str
    """Type of GPU, for the manifest."""
    max_failures: int
    what: str
    """Name of the work, for messages."""
    generated: Generates = generated_by_vllm

    def generate(
        self,
        parts: Sequence[PartJob],
        run_programs: Callable[[list[PartJob]], None],
        on_rows: Callable[[int], None] = lambda rows: None,
    ) -> list[dict[str, Any]]:
        """Answer all parts, keeping complete files of earlier attempts. Returns the parts' statistics.

        Args:
            run_programs: runs the programs of the `pot` pass, while no engine holds a GPU.
            on_rows: called with the number of questions of every part whose last pass is complete.

        Raises:
            EvaluationError: an engine cannot start, or failed too often.
        """
        writer = PromptWriter(self.job, self.card)
        for kind in parts[0].passes:
            is_last = kind == parts[0].passes[-1]
            for part in self._pass(writer, parts, kind):
                on_rows(len(part.questions) if is_last else 0)
            if kind == "pot":
                run_programs([replace(part, passes=("pot",)) for part in parts])
        return [writer.run(part) for part in parts]  # everything exists by now, and is only counted

    def _pass(self, writer: PromptWriter, parts: Sequence[PartJob], kind: Pass) -> Iterator[PartJob]:
        """Run one pass; yields each part as soon as its completions of this kind are complete."""
        waiting: list[tuple[Part, Wanted]] = []
        for job in parts:
            part = Part(writer, job)
            for earlier in job.passes[: job.passes.index(kind)]:
                part.wanted(earlier)
                part.run_programs()
            wanted = part.wanted(kind)
            if wanted is not None and wanted.prompts:
                waiting.append((part, wanted))
                continue
            if wanted is not None:  # none of its questions needs this pass
                part.take(wanted, [])
            yield job
        if waiting:
            yield from self._complete(writer, waiting, writer.longest(parts, kind))

    def _complete(self, writer: PromptWriter, waiting: list[tuple[Part, Wanted]], longest: int) -> Iterator[PartJob]:
        """Generate what is missing, and yield each part when complete. Raises EvaluationError if a prompt got no
        answer, which the driver would otherwise try to generate itself."""
        job, end_ids = waiting[0][0].part, tuple(writer.end_ids)
        tables = rows_of([wanted for _, wanted in waiting], job.seed)
        num_rows = sum(table.num_rows for table in tables)
        config = processor_config(self.job.source, self.engine, self.placement, longest, num_rows)
        request = Request(job.max_new_tokens, end_ids, job.temperature)
        options = remote_options(self.placement, self.max_failures)
        place = [(i, j) for i, (_, wanted) in enumerate(waiting) for j in range(len(wanted.prompts))]
        done: list[dict[int, Generated]] = [{} for _ in waiting]
        left = set(range(num_rows))
        for row, new_ids in self.generated(tables, config, request, options, self.what):
            left.discard(row)
            i, j = place[row]
            done[i][j] = completion_of(new_ids, end_ids, job.max_new_tokens)
            part, wanted = waiting[i]
            if len(done[i]) == len(wanted.prompts):
                part.take(wanted, [done[i].pop(j) for j in range(len(wanted.prompts))])
                part.tables.clear()
                yield part.part
        if left:
            raise EvaluationError(
                f"vLLM returned no answer to {len(left):,} of {num_rows:,} prompts of {self.what}, and no error. "
                f"{_CURE}"
            )
