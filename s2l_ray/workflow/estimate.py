"""Estimates the cost of a run: rows, tokens, steps, FLOPs, time, disk, nodes. Starts nothing and loads no weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from s2l_ray.artifacts.run import Run, RunError, load_run
from s2l_ray.config.schema import S2LConfig
from s2l_ray.data.formats import rendered_as, to_conversation
from s2l_ray.data.read_task import sample_format
from s2l_ray.data.sources import ReadUnit, plan_files, read_unit, resolve_filesystem
from s2l_ray.data.units import UnusableRow
from s2l_ray.lm.flops import ModelShape
from s2l_ray.observability.progress import format_count, format_duration
from s2l_ray.stages.reference import passes_of
from s2l_ray.text.redact import strip_credentials
from s2l_ray.workflow.speed import Speed, speed_of
from s2l_ray.workflow.target_estimate import CorpusSize

_SAMPLE_ROWS = 400
_WORDS = ("notes", "rendered_format", "speed_words")
"""Fields of an estimate that are not figures."""
_COUNTED_BYTES = 2 * 2**30
"""Rows in line-based files are counted up to this total size; beyond it, they are extrapolated."""
_RUN_OVERHEAD_S = 50.0
"""Time to start Ray, for stages that read, tokenise and cluster even the smallest corpus, and for the report; measured
on the quickstart, on two cores of an EPYC of 2017: 24 s before, between and after the stages, and 27 s in them."""


@dataclass
class Estimate:
    """Expected size and cost of a run up to its subsets; None where unknown."""

    num_examples: int | None = None
    is_counted: bool = False
    """Whether the rows were counted, not extrapolated or taken from `estimates`."""
    tokens_per_example: float | None = None
    response_share: float = 0.5
    num_parameters: int | None = None
    steps: int | None = None
    training_flops: float | None = None
    scoring_flops: float | None = None
    seconds: float | None = None
    """Time until the subsets are ready (seconds)."""
    speed_words: str = ""
    """The speed assumed, and where it is from; empty: the time is unknown."""
    disk_bytes: float | None = None
    rendered_format: str | None = None
    """Format of the corpus's first rows; None if they were not read."""
    notes: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """The figures as JSON data."""
        return {name: value for name, value in self.__dict__.items() if name not in _WORDS}

    def lines(self, config: S2LConfig) -> list[str]:
        """The estimate as lines of text."""
        source, t = config.trajectories.source, config.trajectories.num_scored
        tokens = None if self.num_examples is None or self.tokens_per_example is None else (
            self.num_examples * self.tokens_per_example
        )  # fmt: skip
        workers = config.resources.proxy.workers
        return [
            f"examples      {_count(self.num_examples)}",
            f"tokens        {_count(tokens)} per pass ({_count(self.tokens_per_example)} per example, "
            f"{self.response_share:.0%} of them response)",
            f"proxy         {_count(self.num_parameters)} parameters, {_count(self.steps)} optimiser steps of "
            f"{config.proxy.global_batch_size} examples, {t} snapshots"
            f"{'' if source == 'snapshots' else ' and one loss per epoch from training'}",
            f"FLOPs         {_flops(self.training_flops)} training + {_flops(self.scoring_flops)} scoring "
            f"= {_flops(_add(self.training_flops, self.scoring_flops))}",
            f"time          {'unknown' if self.seconds is None else 'about ' + format_duration(self.seconds)} until "
            f"the subsets are ready, at {self.speed_words or Speed(config.estimates.device_tflops * 1e12).words(0)}",
            f"disk          {'unknown' if self.disk_bytes is None else _bytes(self.disk_bytes)} in "
            f"{strip_credentials(config.run_uri)}",
            f"workers       {_workers(workers, config.resources.device)} for the proxy, one process for k-means, CPU "
            "tasks for the rest",
        ]

    @property
    def corpus(self) -> CorpusSize | None:
        """Size of the corpus; None if it is unknown."""
        if self.num_examples is None or self.tokens_per_example is None:
            return None
        return CorpusSize(self.num_examples, self.tokens_per_example, self.response_share)


def estimate(config: S2LConfig) -> Estimate:
    """Estimate a run by measuring what can be measured here, and taking the rest from `estimates.*`."""
    result = Estimate()
    rows = _corpus(config, result)
    shape, tokenizer = _model(config, result, rows)
    _lengths(config, result, rows, tokenizer)
    if result.num_examples is None:
        return result
    per_epoch = math.ceil(result.num_examples / config.proxy.global_batch_size)
    result.steps = config.proxy.max_steps or max(1, round(config.proxy.epochs * per_epoch))
    if result.tokens_per_example is None or result.num_parameters is None:
        return result
    n, length = result.num_examples, result.tokens_per_example
    if shape is None:
        shape = ModelShape(result.num_parameters // 2, result.num_parameters // 2, 0, 0)
    one_pass = shape.forward_flops(int(n * length), int(n * length * result.response_share), int(n * length**2))
    result.training_flops = 3.0 * one_pass * result.steps / per_epoch
    scored, passes = config.trajectories.num_scored, passes_of(config, config.selection.selectors)
    if passes and config.selection.reference.model == "target":
        result.notes.append(f"the selectors need {', '.join(passes)} from the target: one pass over the corpus each")
        passes = []  # these are not the proxy's passes
    result.scoring_flops = float(one_pass) * (scored + len(passes))
    if passes:
        result.notes.append(f"the selectors need {', '.join(passes)}: one pass over the corpus each")
    speed, width = speed_of(config), shape.attention_width
    flops, workers = result.training_flops + result.scoring_flops, config.resources.proxy.workers or 1
    result.seconds = _RUN_OVERHEAD_S + speed.training_s(flops, result.steps, width, workers)
    result.speed_words = speed.words(width)
    # Compressed rows and tokens; 44 bytes per score, and 20 in the trajectories; two checkpoints with weights and both
    # moments; the model.
    points = scored + (0 if config.trajectories.source == "snapshots" else result.steps // per_epoch)
    scores = 44.0 * n * points + (20.0 * points + 30) * n
    result.disk_bytes = n * length * 5 + scores + 28.0 * result.num_parameters
    return result


def _corpus(config: S2LConfig, result: Estimate) -> list[dict[str, Any]]:
    """Count the corpus's rows, and return the first ones as a sample."""
    corpus = config.corpus
    if corpus.quickstart is not None:
        from s2l_ray.data.quickstart import generate_corpus

        result.num_examples, result.is_counted = corpus.quickstart.num_examples, True
        rows, _ = generate_corpus(num_train=_SAMPLE_ROWS, seed=config.seed)
        return rows
    if corpus.huggingface is not None:
        result.num_examples = config.estimates.num_examples
        result.notes.append(f"{corpus.huggingface.name} is not downloaded for a dry run; rows from estimates.*")
        return []
    try:
        units = plan_files(corpus.paths, corpus.read_bytes_per_task, run_uri=config.run_uri, say=result.notes.append)
    except (ValueError, OSError) as error:
        if config.estimates.num_examples is None:
            raise
        result.num_examples = config.estimates.num_examples
        result.notes.append(f"{error}; the number of rows is from estimates.*")
        return []
    sample_format(units, corpus)
    result.num_examples, result.is_counted = _count_rows(units)
    if not result.is_counted:
        result.notes.append("the number of rows is extrapolated from the files' sizes")
    return [r.row for r in islice(read_unit(units[0]), _SAMPLE_ROWS) if r.row is not None]


def _count_rows(units: list[ReadUnit]) -> tuple[int, bool]:
    rows, exact = 0, True
    files = {u.uri: u for u in units}
    budget = _COUNTED_BYTES
    per_byte: float | None = None
    for unit in files.values():
        filesystem, path = resolve_filesystem(unit.uri)
        if unit.kind == "parquet":
            with filesystem.open_input_file(path) as file:
                rows += pq.ParquetFile(file).metadata.num_rows
        elif budget > 0:
            count = _count_lines(unit, filesystem, path)
            per_byte = count / unit.size
            rows, budget = rows + count, budget - unit.size
        else:
            rows, exact = rows + int(unit.size * (per_byte or 0)), False
    return rows, exact


def _count_lines(unit: ReadUnit, filesystem: Any, path: str) -> int:
    if unit.kind != "jsonl":
        return sum(1 for _ in read_unit(unit))
    lines, last = 0, b"\n"
    with filesystem.open_input_stream(path, compression=unit.compression) as stream:
        while chunk := stream.read(1 << 22):
            lines, last = lines + chunk.count(b"\n"), chunk[-1:]
    return lines + (last != b"\n")


def _model(config: S2LConfig, result: Estimate, rows: list[dict[str, Any]]) -> tuple[ModelShape | None, Any]:
    """The proxy's shape and tokenizer, from its config alone on the meta device; only small files are downloaded."""
    from s2l_ray.lm.checks import about_experts, meta_model
    from s2l_ray.lm.load import ModelError, load_model_config, load_tokenizer, train_tokenizer
    from s2l_ray.lm.vocabulary import num_token_ids

    tokenizer = None
    try:
        if config.proxy.train_tokenizer is not None:
            texts = [str(v) for r in rows for v in r.values()]
            tokenizer = train_tokenizer(iter(texts), config.proxy.train_tokenizer.vocab_size)
        else:
            tokenizer = load_tokenizer(config.proxy)
        vocab = config.proxy.train_tokenizer.vocab_size if config.proxy.train_tokenizer else None
        model_config = load_model_config(config.proxy, vocab_size=vocab or num_token_ids(tokenizer))
        model = meta_model(model_config, config.proxy)
    except ModelError as error:
        if config.proxy.from_config is not None and tokenizer is not None:
            raise  # no download would help
        result.num_parameters = config.estimates.num_parameters
        result.notes.append(f"{str(error).split(':')[0]}; its size is from estimates.*")
        return None, tokenizer
    result.num_parameters = sum(p.numel() for p in model.parameters())
    if (note := about_experts(model_config, config.proxy)) is not None:
        result.notes.append(note)
    return ModelShape.of(model), tokenizer


def _lengths(config: S2LConfig, result: Estimate, rows: list[dict[str, Any]], tokenizer: Any) -> None:
    from s2l_ray.data.formats import format_of_rows
    from s2l_ray.data.render import renderer_of

    if not rows or tokenizer is None:
        result.tokens_per_example = config.estimates.tokens_per_example
        return
    format = format_of_rows(config.corpus, rows)
    chats = []
    for row in rows:
        try:
            chats.append(to_conversation(row, format, config.corpus))
        except UnusableRow:
            continue
    format = rendered_as(format, any(chat.is_chat for chat in chats))
    result.rendered_format = format
    render = renderer_of(config.proxy, format, tokenizer)
    done = [
        s
        for row in render([chat.turns for chat in chats], [chat.tools for chat in chats])
        if not isinstance(row, UnusableRow)
        for s in row
    ]
    if done:
        result.tokens_per_example = float(np.mean([len(r.input_ids) for r in done]))
        result.response_share = sum(sum(r.response_mask) for r in done) / sum(len(r.input_ids) for r in done)


def complete_stages(config: S2LConfig) -> Run | None:
    """The run that already exists in the folder; None if there is none that can be read."""
    from s2l_ray.artifacts.manifest import EarlierLayout
    from s2l_ray.storage.folder import Storage

    try:
        return load_run(Storage.open(config.run_uri))
    except (RunError, EarlierLayout, OSError):
        return None


def _add(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b


def _count(n: float | None) -> str:
    return "unknown" if n is None else format_count(n)


def _workers(asked: int | None, device: str) -> str:
    if asked:
        where = {"gpu": " on GPUs", "cpu": " on CPUs"}.get(device, "")
        return f"{asked}{where}"
    return {"gpu": "one per GPU", "cpu": "one"}.get(device, "one per GPU, or one on CPUs,")


def _flops(n: float | None) -> str:
    return "unknown" if n is None else f"{n:.2e}"


def _bytes(n: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"
