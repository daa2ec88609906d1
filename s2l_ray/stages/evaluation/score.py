"""Judges one model's answers to one task: reads the generated text → answers.parquet, report.json, report.md.

Needs neither Ray nor, except for BERTScore, a model. Memory: the text of one task.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.config.evaluation import EvaluationConfig
from s2l_ray.errors import foreign_named
from s2l_ray.evaluation import report, summaries
from s2l_ray.evaluation.answers.mathematics import Compare
from s2l_ray.evaluation.answers.symbolic import SandboxComparer
from s2l_ray.evaluation.bertscore import BertScorer
from s2l_ray.evaluation.errors import EvaluationError
from s2l_ray.evaluation.questions import ID_BYTES
from s2l_ray.evaluation.sandbox import Sandbox
from s2l_ray.evaluation.scoring import READ_GENERATIONS, READ_PROGRAMS, Scored, collect, score
from s2l_ray.evaluation.tasks import SUMMARY
from s2l_ray.stages.evaluation.tasks import AskedTask, metric_of, sandbox_settings
from s2l_ray.storage.digests import columns_digest
from s2l_ray.storage.folder import Storage

ANSWERS = "answers.parquet"
_COUNTS = pa.list_(pa.float64(), 10)


@dataclass(frozen=True)
class Flags:
    """Question id → whether the question occurs in the corpus, and whether it does apart from its numbers."""

    contaminated: dict[bytes, bool]
    template: dict[bytes, bool]


@dataclass(frozen=True)
class Judgement:
    """The result of judging the answers."""

    content: str
    report: dict[str, Any]
    warnings: list[str]
    """Notes of the report that are warnings."""
    num_questions: int
    """Number of questions that were asked."""
    sandbox: dict[str, Any] | None
    """Report on the sandbox in which symbolic comparisons ran, if there were any."""


def judge(
    asked: AskedTask,
    generation: Storage,
    flags: Flags,
    config: EvaluationConfig,
    seed: int,
    facts: dict[str, Any],
    out: Storage,
) -> Judgement:
    """Judge the answers, and write everything but the manifest.

    Args:
        facts: further entries of the report: model, form, engine, …

    Raises:
        EvaluationError: no question could be asked, or the user's metric fails.
    """
    names = [entry.name for entry in generation.list("generations")]
    generations = [row for table in generation.read_tables(names, READ_GENERATIONS) for row in table.to_pylist()]
    names = [entry.name for entry in generation.list("programs")]
    programs = [row for table in generation.read_tables(names, READ_PROGRAMS) for row in table.to_pylist()]
    answers = collect(asked.questions, generations, programs)
    if not answers:
        raise EvaluationError(
            f"task {asked.name}: none of {len(asked.questions):,} prompts fits in the model's window, so nothing was "
            "asked; lower evaluation.generation.max_new_tokens, or use a model with a longer window"
        )
    kept = {one.question.id for one in answers}
    flags_of = [(flags.contaminated[i], flags.template[i]) for i in (one.question.id for one in answers)]
    base: dict[str, Any] = {
        "question_id": pa.array([one.question.id for one in answers], pa.binary(ID_BYTES)),
        "question": [one.question.text for one in answers],
        "gold": [one.question.gold for one in answers],
        "groups": pa.array([list(one.question.groups.items()) for one in answers], pa.map_(pa.string(), pa.string())),
        "contaminated": [contaminated for contaminated, _ in flags_of],
        "template": [template for _, template in flags_of],
    }
    sandbox: dict[str, Any] | None = None
    if asked.task.rule == SUMMARY:
        columns, made = _summaries(asked, answers, base, config, seed)
    else:
        with _comparer(asked, config) as (compare, probe, threads):
            sandbox = probe
            with ThreadPoolExecutor(threads) as pool:
                scored = list(pool.map(lambda one: score(asked.task, one, compare), answers))
        columns, made = _verdicts(asked, scored, base, config)
    table = pa.table({**base, **columns})
    own, extra = _own(asked, table, answers, config, seed)
    made["figures"] |= own
    table = pa.table({**{name: table[name] for name in table.column_names}, **extra})
    out.write_table(ANSWERS, table, compression="zstd")
    missing = len(asked.questions) - len(kept)
    notes = [*facts.pop("notes", []), *([_missing_note(missing, len(asked.questions))] if missing else [])]
    whole = {
        "version": 1, "task": asked.task.plain(), **facts, "num_questions": len(answers), "num_not_asked": missing,
        "unit": "percent" if asked.task.rule == SUMMARY else "share", "level": config.confidence.level, **made,
        "notes": [*made.get("notes", []), *notes],
    }  # fmt: skip
    out.write_json("report.json", whole)
    out.write_bytes("report.md", report.report_markdown(whole).encode())
    return Judgement(columns_digest(table.drop_columns(["groups"])), whole, notes, len(answers), sandbox)


def _missing_note(missing: int, total: int) -> str:
    return (
        f"{missing:,} of {total:,} questions were not asked, because prompt and new tokens exceed the model's window; "
        "the results are for the others"
    )


@contextlib.contextmanager
def _comparer(asked: AskedTask, config: EvaluationConfig) -> Iterator[tuple[Compare, dict[str, Any] | None, int]]:
    """The comparison for answers in LaTeX, the report on its sandbox, and the number of threads that may call it."""
    if asked.task.rule != "math":
        yield _undecided, None, 1
        return
    with Sandbox(sandbox_settings(config)) as sandbox:
        yield SandboxComparer(sandbox), sandbox.probe().plain(), sandbox.num_processes


def _undecided(gold: str, answer: str) -> Any:
    return "unreadable"


def _verdicts(
    asked: AskedTask, scored: list[Scored], base: dict[str, Any], config: EvaluationConfig
) -> tuple[dict[str, Any], dict[str, Any]]:
    columns: dict[str, Any] = {
        "text": [one.text for one in scored],
        "form_used": [one.form_used for one in scored],
        "how": [one.grade.how for one in scored],
        "extracted": [one.grade.extracted for one in scored],
        "correct": [one.grade.correct for one in scored],
        "correct_published": pa.array([one.grade.correct_published for one in scored], pa.bool_()),
        "first": pa.array([one.grade.first for one in scored], pa.bool_()),
        "reason": [one.grade.reason for one in scored],
        "outcome": pa.array([one.outcome for one in scored], pa.string()),
        "fell_back": [one.fell_back for one in scored],
        "num_new_tokens": pa.array([one.num_new_tokens for one in scored], pa.int32()),
    }
    plain = {name: getattr(value, "to_pylist", lambda value=value: value)() for name, value in columns.items()}
    groups = [dict(pairs) for pairs in base["groups"].to_pylist()]
    rows = {**plain, "contaminated": base["contaminated"], "template": base["template"], "groups": groups}
    made = report.accuracy_report(rows, asked.task.group_by, config.confidence.level)
    return columns, made


def _summaries(
    asked: AskedTask, answers: list[Any], base: dict[str, Any], config: EvaluationConfig, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    completions = [one.completions[0, "cot"] for one in answers]
    texts = [summaries.cut(one.text) for one in completions]
    scorer = _bert_scorer(config)
    measured = summaries.measure(texts, base["gold"], scorer)
    findings = [one.question.findings for one in answers]
    columns: dict[str, Any] = {
        "text": [one.text for one in completions],
        "form_used": ["cot"] * len(texts),
        "summary": texts,
        "truncated": [one.truncated for one in completions],
        "normal": summaries.split_by_normality(base["gold"])["normal"].tolist(),
        "bleu_counts": pa.array(measured.bleu_counts.tolist(), _COUNTS),
        **{name: measured.per_report[:, i] for i, name in enumerate(measured.names)},
        "num_new_tokens": pa.array([one.num_new_tokens for one in completions], pa.int32()),
    }
    rows = {**columns, **base, "findings": findings}
    resamples, level = config.confidence.resamples, config.confidence.level
    made = report.summary_report(measured, rows, asked.name, seed, resamples, level, scorer)
    made["notes"] = [f"BLEU: {summaries.bleu_signature()}"]
    if scorer is not None:
        made["notes"].append(scorer.name)
    return columns, made


def _bert_scorer(config: EvaluationConfig) -> BertScorer | None:
    asked = config.bertscore
    if asked.model is None:
        return None
    return BertScorer(asked.model, asked.layer, asked.idf, asked.rescale, asked.revision)


def _own(
    asked: AskedTask, table: pa.Table, answers: list[Any], config: EvaluationConfig, seed: int
) -> tuple[report.Figures, dict[str, np.ndarray]]:
    """The results of the user's metric, and its columns."""
    metric = metric_of(asked.task)
    if metric is None:
        return {}, {}
    names = sorted({name for one in answers for name in one.question.groups})
    groups = [{name: one.question.groups.get(name) for name in names} for one in answers]
    given = table.select(["question_id", "question", "gold", "text", "form_used"])
    given = given.append_column("groups", pa.array(groups, pa.struct([(name, pa.string()) for name in names])))
    what = f"evaluation.custom.{asked.name}.metric={asked.task.metric} failed"
    cure = "Fix the function; --rescore calls it again without generating anything"
    with foreign_named(EvaluationError, what, cure):
        figures, columns = report.own_figures(
            metric(given), len(answers), asked.name, seed, config.confidence.resamples, config.confidence.level
        )
    return {f"own/{name}": figure for name, figure in figures.items()}, {f"own/{n}": v for n, v in columns.items()}
