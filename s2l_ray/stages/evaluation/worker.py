"""What one evaluation worker does: load a model once, answer parts of test sets, run the programs among the answers.

Knows torch, not Ray. Memory: the model, the cache of a batch (lm.generate), the texts of one part.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch

from s2l_ray.data.render import Renderer
from s2l_ray.data.units import UnusableRow
from s2l_ray.evaluation.answers.grading import program_answers
from s2l_ray.evaluation.answers.programs import find_program
from s2l_ray.evaluation.prompts import Pass, messages
from s2l_ray.evaluation.questions import ID_BYTES, Question
from s2l_ray.evaluation.sandbox import ProgramResult, Sandbox, SandboxSettings, check_node
from s2l_ray.evaluation.scoring import NO_PROGRAM, Program
from s2l_ray.lm.engine import device_name
from s2l_ray.lm.exported import ModelSource
from s2l_ray.lm.generate import Decoding, Generator, sample_seed, window_of
from s2l_ray.lm.vocabulary import name_of, pad_token_id_of
from s2l_ray.storage.digests import columns_digest
from s2l_ray.storage.folder import Storage
from s2l_ray.storage.retry import DamagedFile

_ID = pa.binary(ID_BYTES)
GENERATION_SCHEMA = pa.schema(
    [
        ("question_id", _ID), ("task", pa.string()), ("pass", pa.string()), ("sample", pa.int32()),
        ("prompt_ids", pa.list_(pa.int32())), ("text", pa.string()), ("num_new_tokens", pa.int32()),
        ("finish", pa.string()),
    ]
)  # fmt: skip
PROGRAM_SCHEMA = pa.schema(
    [
        ("question_id", _ID), ("sample", pa.int32()), ("source", pa.string()), ("outcome", pa.string()),
        ("stdout", pa.string()), ("reason", pa.string()), ("seconds", pa.float32()),
    ]
)  # fmt: skip
QUARANTINE_SCHEMA = pa.schema([("question_id", _ID), ("pass", pa.string()), ("reason", pa.string())])
_KEY, _PROBE = b"s2l_ray.key", b"s2l_ray.sandbox"
"""In the files' metadata: whose they are, and what the sandbox of the programs kept out."""


def generations_name(kind: str, part: int) -> str:
    return f"generations/{kind}-{part:05d}.parquet"


def programs_name(part: int) -> str:
    return f"programs/part-{part:05d}.parquet"


def quarantine_name(kind: str, part: int) -> str:
    return f"quarantine/{kind}-{part:05d}.parquet"


@dataclass(frozen=True)
class ModelJob:
    """What every worker of one model is told."""

    source: ModelSource
    style: Any
    """Of rendering, see data.render.Style."""
    render_options: dict[str, Any]
    with_thoughts: bool
    """The responses of the training had thoughts of their own."""
    dtype: str
    device: str
    """cpu or gpu."""
    threads: int | None
    sandbox: SandboxSettings


@dataclass(frozen=True)
class PartJob:
    """One part of a test set."""

    key: str
    """Of the stage: files of another key are not taken for this one's."""
    part: int
    questions: list[Question]
    passes: tuple[Pass, ...]
    program_stem: str
    max_new_tokens: int
    tokens_per_batch: int
    samples: int
    temperature: float
    seed: int
    out: Storage


class EvaluationWorker:
    """Answers parts. Files that an interrupted attempt has written whole are not made again."""

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
        """Returns statistics; what was generated lies in the stage's folder."""
        done = _Part(self, part)
        for kind in part.passes:
            done.generate(kind)
            if kind == "pot":
                done.run_programs()
        return done.statistics()

    @property
    def model(self) -> Any:
        """Loaded when a part needs it: a resumed evaluation may need none."""
        if self._loaded is None:
            dtype = getattr(torch, self.job.dtype)
            self._loaded = self.job.source.load(self.tokenizer, dtype).to(self.device)
        return self._loaded

    def sandbox(self) -> Sandbox:
        """Opened, and tested on this node, before its first program.

        Raises:
            EvaluationError: this node cannot isolate programs, or lacks what they import; none was run.
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
        """What the sandbox keeps out on this node, if programs ran there."""
        return self._probe

    def prompts(self, questions: list[Question], part: PartJob, kind: Pass) -> list[list[int] | UnusableRow]:
        """Prompt ids. Unusable, and never cut: what is longer than the model's window with its new tokens, and what
        holds a token without an embedding."""
        batch = [messages(question, kind, part.program_stem) for question in questions]
        window, num_embeddings = window_of(self.model.config), self.model.get_input_embeddings().num_embeddings
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
                    f"the prompt holds the token {name_of(max(ids), self.tokenizer)} (id {max(ids):,}), and the model "
                    f"has {num_embeddings:,} embeddings, none for it; leave it out of the question and the template"
                )
            rendered.append(ids)
        return rendered

    def generator(self, part: PartJob) -> Generator:
        decoding = Decoding(
            part.max_new_tokens, tuple(self._renderer.end_ids()), self._pad_id(),
            part.tokens_per_batch, part.temperature,
        )  # fmt: skip
        return Generator(self.model, decoding, self.device)

    def _pad_id(self) -> int:
        return pad_token_id_of(self.tokenizer, self.model.get_input_embeddings().num_embeddings)


class _Part:
    """One part on its way."""

    def __init__(self, worker: EvaluationWorker, part: PartJob) -> None:
        self.worker, self.part = worker, part
        self.tables: dict[str, pa.Table] = {}
        self.num_halved = 0
        self.probe: dict[str, Any] | None = None
        """Of the sandbox in which this part's programs ran; None if there were none."""
        self._pairs = [(question, sample) for question in part.questions for sample in range(part.samples)]

    def generate(self, kind: Pass) -> None:
        """The completions of one pass; of `cot` after `pot`, of the questions whose program gave no answer."""
        asked = self._pairs if kind == self.part.passes[0] else self._without_answer()
        name = generations_name(kind, self.part.part)
        kept = self._kept(name, GENERATION_SCHEMA)
        refused = self._kept(quarantine_name(kind, self.part.part), QUARANTINE_SCHEMA)
        if kept is not None and refused is not None and self._are_of(kept, refused, asked):
            self.tables[kind], self.tables[f"{kind} quarantine"] = kept, refused
            return
        prompts = self.worker.prompts([question for question, _ in asked], self.part, kind)
        good = [i for i, ids in enumerate(prompts) if not isinstance(ids, UnusableRow)]
        bad = [i for i, ids in enumerate(prompts) if isinstance(ids, UnusableRow)]
        reasons = [{"question_id": asked[i][0].id, "pass": kind, "reason": str(prompts[i])} for i in bad]
        refused = self._write(quarantine_name(kind, self.part.part), reasons, QUARANTINE_SCHEMA)
        generator = self.worker.generator(self.part)
        seeds = [sample_seed(asked[i][0].id + kind.encode(), self.part.seed, asked[i][1]) for i in good]
        done = generator([prompts[i] for i in good], seeds)  # type: ignore[misc]
        self.num_halved += generator.num_halved
        rows = [
            {
                "question_id": asked[i][0].id, "task": asked[i][0].task, "pass": kind, "sample": asked[i][1],
                "prompt_ids": prompts[i], "num_new_tokens": one.num_new_tokens, "finish": one.finish,
                "text": self.worker.tokenizer.decode(list(one.ids), clean_up_tokenization_spaces=False),
            }
            for i, one in zip(good, done, strict=True)
        ]  # fmt: skip
        self.tables[kind] = self._write(name, rows, GENERATION_SCHEMA)
        self.tables[f"{kind} quarantine"] = refused

    def run_programs(self) -> None:
        """The programs of the `pot` pass, each in the sandbox."""
        written = self.tables["pot"]
        name = programs_name(self.part.part)
        kept = self._kept(name, PROGRAM_SCHEMA)
        sources = [find_program(text) for text in written["text"].to_pylist()]
        if kept is not None and self._are_programs_of(kept, written, sources):
            self.tables["programs"] = kept
            self.probe = json.loads((kept.schema.metadata or {}).get(_PROBE, b"null"))
            return
        there = [source for source in sources if source is not None]
        results = iter(self.worker.sandbox().run_many(there) if there else [])
        rows = []
        for row, source in zip(written.select(["question_id", "sample"]).to_pylist(), sources, strict=True):
            result = None if source is None else next(results)
            rows.append({**row, "source": source, **_plain(result)})
        self.probe = self.worker.probe if there else None
        self.tables["programs"] = self._write(name, rows, PROGRAM_SCHEMA, {_PROBE: json.dumps(self.probe).encode()})

    def _without_answer(self) -> list[tuple[Question, int]]:
        answered = {
            (row["question_id"], row["sample"])
            for row in self.tables["programs"].to_pylist()
            if program_answers(Program(row["outcome"], row["stdout"]))
        }
        return [(question, sample) for question, sample in self._pairs if (question.id, sample) not in answered]

    @staticmethod
    def _are_of(table: pa.Table, refused: pa.Table, asked: list[tuple[Question, int]]) -> bool:
        """Whether these are the rows of exactly these questions."""
        out = {(row["question_id"], row["sample"]) for row in table.select(["question_id", "sample"]).to_pylist()}
        ids = set(refused["question_id"].to_pylist())
        return out == {(question.id, sample) for question, sample in asked if question.id not in ids}

    @staticmethod
    def _are_programs_of(table: pa.Table, written: pa.Table, sources: list[str | None]) -> bool:
        """Whether these are the programs in exactly these texts: the texts may have been made again, and differ."""
        same = all(table[name].equals(written[name]) for name in ("question_id", "sample"))
        return same and table["source"].to_pylist() == sources

    def _kept(self, name: str, schema: pa.Schema) -> pa.Table | None:
        """What an interrupted attempt has written; None where that is nothing, damaged, or of another stage."""
        try:
            table = self.part.out.read_table(name)
        except (FileNotFoundError, DamagedFile):
            return None
        is_own = (table.schema.metadata or {}).get(_KEY) == self.part.key.encode()
        return table if is_own and table.schema.equals(schema) else None

    def _write(
        self, name: str, rows: list[dict[str, Any]], schema: pa.Schema, more: dict[bytes, bytes] | None = None
    ) -> pa.Table:
        metadata = {_KEY: self.part.key.encode(), **(more or {})}
        table = pa.Table.from_pylist(rows, schema).replace_schema_metadata(metadata)
        self.part.out.write_table(name, table, compression="zstd")
        return table

    def statistics(self) -> dict[str, Any]:
        """Counts, content and what computed it."""
        texts = [self.tables[kind] for kind in self.part.passes]
        programs = self.tables.get("programs")
        content = [columns_digest(table) for table in texts]
        if programs is not None:
            content.append(columns_digest(programs, [n for n in programs.column_names if n != "seconds"]))
        refused = [self.tables[f"{kind} quarantine"] for kind in self.part.passes]
        return {
            "part": self.part.part,
            "rows": len(self.part.questions),
            "content": content,
            "new_tokens": sum(sum(table["num_new_tokens"].to_pylist()) for table in texts),
            "finish": dict(Counter(f for table in texts for f in table["finish"].to_pylist())),
            "outcomes": dict(Counter([] if programs is None else programs["outcome"].to_pylist())),
            "quarantined": sum(len(set(table["question_id"].to_pylist())) for table in refused),
            "num_halved": self.num_halved,
            "probe": self.probe,
            "device": device_name(self.worker.device),
            "written": self.part.out.take_written(),
        }


def _plain(result: ProgramResult | None) -> dict[str, Any]:
    if result is None:
        return {"outcome": NO_PROGRAM, "stdout": "", "reason": "", "seconds": 0.0}
    return {
        "outcome": result.outcome, "stdout": result.stdout, "reason": result.reason, "seconds": result.seconds,
    }  # fmt: skip
