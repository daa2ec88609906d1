"""One part of a test set in progress: what to ask, what exists already, what to write.

Uses neither Ray nor a model: it tells the engine what to generate. Memory: the text of one part.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import pyarrow as pa

from s2l_ray.data.units import UnusableRow
from s2l_ray.evaluation.answers.grading import program_answers
from s2l_ray.evaluation.answers.programs import find_program
from s2l_ray.evaluation.prompts import Pass
from s2l_ray.evaluation.questions import ID_BYTES, Question
from s2l_ray.evaluation.sandbox import ProgramResult, Sandbox
from s2l_ray.evaluation.scoring import NO_PROGRAM, Program
from s2l_ray.lm.generate import sample_seed
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
"""Keys of the files' metadata: the stage's key, and the report on the programs' sandbox."""


def generations_name(kind: str, part: int) -> str:
    return f"generations/{kind}-{part:05d}.parquet"


def programs_name(part: int) -> str:
    return f"programs/part-{part:05d}.parquet"


def quarantine_name(kind: str, part: int) -> str:
    return f"quarantine/{kind}-{part:05d}.parquet"


@dataclass(frozen=True)
class PartJob:
    """One part of a test set, and how to answer it."""

    key: str
    """Key of the stage, so that files of another stage are not mistaken for this one's."""
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


class Completion(Protocol):
    """The completion of one prompt, see lm.generate.Generated."""

    @property
    def ids(self) -> tuple[int, ...]: ...

    @property
    def finish(self) -> Literal["eos", "length"]: ...

    @property
    def num_new_tokens(self) -> int: ...


class Host(Protocol):
    """The worker that answers the part."""

    tokenizer: Any

    @property
    def device_name(self) -> str: ...

    @property
    def probe(self) -> dict[str, Any] | None: ...

    def prompts(self, questions: list[Question], part: PartJob, kind: Pass) -> Sequence[list[int] | UnusableRow]: ...

    def sandbox(self) -> Sandbox: ...


@dataclass(frozen=True)
class Wanted:
    """What to generate in one pass over a part."""

    kind: Pass
    pairs: list[tuple[Question, int]]
    """Pairs of a question and the number of the sample."""
    prompts: list[list[int]]
    """Token ids of each pair."""


class Part:
    """One part in progress."""

    def __init__(self, worker: Host, part: PartJob) -> None:
        self.worker, self.part = worker, part
        self.tables: dict[str, pa.Table] = {}
        self.num_halved = 0
        self.probe: dict[str, Any] | None = None
        """Report on the sandbox in which this part's programs ran; None if there were no programs."""
        self._pairs = [(question, sample) for question in part.questions for sample in range(part.samples)]

    def wanted(self, kind: Pass) -> Wanted | None:
        """What to generate in one pass, which for `cot` after `pot` are only questions whose program gave no answer;
        None if it exists already."""
        asked = self._pairs if kind == self.part.passes[0] else self._without_answer()
        kept = self._kept(generations_name(kind, self.part.part), GENERATION_SCHEMA)
        refused = self._kept(quarantine_name(kind, self.part.part), QUARANTINE_SCHEMA)
        if kept is not None and refused is not None and self._are_of(kept, refused, asked):
            self.tables[kind], self.tables[f"{kind} quarantine"] = kept, refused
            return None
        prompts = self.worker.prompts([question for question, _ in asked], self.part, kind)
        unusable = [
            {"question_id": question.id, "pass": kind, "reason": str(ids)}
            for (question, _), ids in zip(asked, prompts, strict=True)
            if isinstance(ids, UnusableRow)
        ]
        self.tables[f"{kind} quarantine"] = self._write(
            quarantine_name(kind, self.part.part), unusable, QUARANTINE_SCHEMA
        )
        good = [(pair, ids) for pair, ids in zip(asked, prompts, strict=True) if not isinstance(ids, UnusableRow)]
        return Wanted(kind, [pair for pair, _ in good], [ids for _, ids in good])

    def take(self, wanted: Wanted, done: Sequence[Completion]) -> None:
        """Write the completions of one pass, in the order of its prompts."""
        rows = [
            {
                "question_id": question.id, "task": question.task, "pass": wanted.kind, "sample": sample,
                "prompt_ids": ids, "num_new_tokens": one.num_new_tokens, "finish": one.finish,
                "text": self.worker.tokenizer.decode(list(one.ids), clean_up_tokenization_spaces=False),
            }
            for (question, sample), ids, one in zip(wanted.pairs, wanted.prompts, done, strict=True)
        ]  # fmt: skip
        name = generations_name(wanted.kind, self.part.part)
        self.tables[wanted.kind] = self._write(name, rows, GENERATION_SCHEMA)

    def run_programs(self) -> None:
        """Run the programs of the `pot` pass, each in the sandbox."""
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
        """Whether the tables contain rows for exactly these questions."""
        out = {(row["question_id"], row["sample"]) for row in table.select(["question_id", "sample"]).to_pylist()}
        ids = set(refused["question_id"].to_pylist())
        return out == {(question.id, sample) for question, sample in asked if question.id not in ids}

    @staticmethod
    def _are_programs_of(table: pa.Table, written: pa.Table, sources: list[str | None]) -> bool:
        """Whether the table contains exactly the programs in this text, which may have been generated again and
        differ."""
        same = all(table[name].equals(written[name]) for name in ("question_id", "sample"))
        return same and table["source"].to_pylist() == sources

    def _kept(self, name: str, schema: pa.Schema) -> pa.Table | None:
        """The table that an interrupted attempt has written; None if there is none, or it is damaged or of another
        stage."""
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
        """The part's counts, content fingerprints, device and files."""
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
            "device": self.worker.device_name,
            "written": self.part.out.take_written(),
        }


def sample_seeds(wanted: Wanted, seed: int) -> list[bytes]:
    """The seed of each completion, for sampling; the same whichever worker generates it, and when."""
    return [sample_seed(question.id + wanted.kind.encode(), seed, sample) for question, sample in wanted.pairs]


def _plain(result: ProgramResult | None) -> dict[str, Any]:
    if result is None:
        return {"outcome": NO_PROGRAM, "stdout": "", "reason": "", "seconds": 0.0}
    return {
        "outcome": result.outcome, "stdout": result.stdout, "reason": result.reason, "seconds": result.seconds,
    }  # fmt: skip
