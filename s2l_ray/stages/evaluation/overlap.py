"""Contamination: questions and the corpus → which questions occur in it."""

from __future__ import annotations

from s2l_ray.artifacts.models import ContaminationArtifact
from s2l_ray.artifacts.run import part_rows
from s2l_ray.artifacts.stage import Stage, StageResult, StageSpec
from s2l_ray.config.evaluation import EvaluationConfig
from s2l_ray.evaluation.errors import EvaluationError
from s2l_ray.stages.context import RunContext
from s2l_ray.stages.evaluation.tasks import AskedTask
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage


def contamination_spec(
    context: RunContext, config: EvaluationConfig, corpus: Stage, task: AskedTask, searches: bool
) -> StageSpec:
    """Specify the stage, which is the same for all models.

    Args:
        searches: whether the corpus may be searched; False: only use an earlier search.
    """
    asked, name = config.contamination, f"contamination/{task.name}"
    parts = part_rows(corpus)

    def build(out: Storage) -> StageResult:
        from s2l_ray.evaluation.contamination import QuestionIndex
        from s2l_ray.stages.evaluation.build import search_corpus

        if not searches:
            raise EvaluationError(
                f"--rescore starts no Ray, but the corpus has not been searched for the questions of {task.name} yet; "
                "leave --rescore out"
            )
        ids = [question.id for question in task.questions]
        index = QuestionIndex([q.text for q in task.questions], asked.ngram, (config.program_stem,))
        with context.progress.stage(name, sum(rows for _, rows in parts), "examples") as bar:
            table = search_corpus(
                corpus.storage.sub("examples"), [part for part, _ in parts], ids, index, asked.share,
                context.parallelism, out, on_rows=lambda rows: bar.update(advance=rows),
            )  # fmt: skip
        counts = {kind: sum(table[kind].to_pylist()) for kind in ("exact", "ngram", "template")}
        line = (
            f"{counts['exact']:,} of {len(ids):,} questions are in the corpus word for word, {counts['ngram']:,} "
            f"share at least {asked.share:.0%} of their {asked.ngram}-grams with it"
        )
        content = fingerprint([table[kind].to_pylist() for kind in ("exact", "ngram", "template")])
        return StageResult(
            content, {"questions": len(ids)}, ContaminationArtifact(task=task.name, **counts), summary=line
        )

    settings = {**asked.model_dump(mode="json"), "stem": config.program_stem}
    inputs = {"corpus": corpus.content, "questions": task.content}
    return StageSpec(name, settings, inputs, build, kind="contamination")
