"""Evaluation: a model and a task → completions, which questions are in the corpus, and verdicts with a report.

There are three artifacts, because each outlives changes of the others: text is expensive and is judged again whenever a
rule changes, and the overlap of a test set with the corpus is the same for all models.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from s2l_ray.artifacts.manifest import MANIFEST_NAME
from s2l_ray.artifacts.models import CorpusArtifact, EvaluationArtifact, GenerationArtifact
from s2l_ray.artifacts.run import part_rows
from s2l_ray.artifacts.stage import Stage, StageResult, StageSpec
from s2l_ray.data.conversation import CHAT_COLUMN, unpack_table
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.said import thoughts_of
from s2l_ray.evaluation.answers.grading import RULES_VERSION
from s2l_ray.evaluation.errors import EvaluationError
from s2l_ray.evaluation.questions import parts as parts_of
from s2l_ray.evaluation.tasks import SUMMARY
from s2l_ray.observability.progress import format_count
from s2l_ray.stages.context import RunContext
from s2l_ray.stages.evaluation.describe import form_of, summary_line, warnings_of
from s2l_ray.stages.evaluation.engine_choice import EngineChoice
from s2l_ray.stages.evaluation.engines import TRANSFORMERS, VLLM, Engine
from s2l_ray.stages.evaluation.models import AskedModel
from s2l_ray.stages.evaluation.overlap import contamination_spec
from s2l_ray.stages.evaluation.tasks import AskedTask, sandbox_settings
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage

if TYPE_CHECKING:
    from s2l_ray.stages.evaluation.worker import ModelJob  # imports torch

_NOT_IN_KEY = {"processes", "i_know_programs_run_with_my_rights"}
"""Settings of the sandbox that change no outcome: the number of processes, and a consent."""


class Evaluation:
    """Evaluates models during one command. A context manager, because it holds the current model's workers.

    Args:
        tasks: the tasks with their questions.
        generates: whether answers may be generated; False: only judge existing ones.
    """

    def __init__(self, context: RunContext, tasks: Sequence[AskedTask], generates: bool = True) -> None:
        config = context.config.evaluation
        assert config is not None
        self.context, self.config, self.tasks, self.generates = context, config, tasks, generates
        self._pool: contextlib.ExitStack = contextlib.ExitStack()
        self._asked: tuple[str, Any] | None = None
        self._engines = EngineChoice(context, config)

    def __enter__(self) -> Evaluation:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_pool()

    def evaluate(self, model: AskedModel, again: bool = False) -> list[Stage]:
        """Evaluate one model on all tasks → the evaluations; completed work is skipped.

        Args:
            again: judge answers again that have already been judged.

        Raises:
            EvaluationError: something would have to be generated, but nothing may be.
        """
        ensure = self.context.runner.ensure
        stages = []
        try:
            for task in self.tasks:
                contamination = ensure(
                    contamination_spec(self.context, self.config, self._corpus, task, self.generates)
                )
                generation = self._generation(model, task)
                spec = self.evaluation_spec(model, task, generation, contamination)
                if again:
                    self.context.run.storage.sub(spec.place).delete(MANIFEST_NAME)
                stages.append(ensure(spec))
        finally:
            self._close_pool()
        return stages

    def _generation(self, model: AskedModel, task: AskedTask) -> Stage:
        if self.generates:
            return self.context.runner.ensure(self.generation_spec(model, task, self._engines.of(model)))
        engines = self._engines.that_may_have_answered(model.label, task.name)
        specs = {spec.key: spec for spec in (self.generation_spec(model, task, engine) for engine in engines)}
        found = [stage for spec in specs.values() if (stage := self.context.runner.find(spec)) is not None]
        if not found:
            raise EvaluationError(
                f"--rescore judges existing answers, but {model.label} has not answered {task.name} with "
                "these settings; leave --rescore out to generate them"
            )
        return max(found, key=lambda stage: stage.manifest.finished_at)

    @cached_property
    def _corpus(self) -> Stage:
        return self.context.run.stage("corpus")

    # Completions.

    @cached_property
    def _format(self) -> str:
        return CorpusArtifact.of(self._corpus).rendered_format

    @cached_property
    def _corpus_has_thoughts(self) -> bool:
        """Whether responses in the corpus have reasoning separate from their content, judging by its first part."""
        part = part_rows(self._corpus)[0][0]
        table = self._corpus.storage.read_table(f"examples/{part_name(part)}", ["messages"], optional=[CHAT_COLUMN])
        last = [turns[-1] for turns in unpack_table(table)[0]]
        return 2 * sum(thoughts_of(turn) is not None for turn in last) > len(last)

    def _rendering(self, model: AskedModel) -> dict[str, Any]:
        """How questions are turned into prompts: as in the training of the run's targets."""
        from s2l_ray.data.render import options_of, resolve_style

        if self._asked is None or self._asked[0] != model.label:
            self._asked = model.label, model.source.load_tokenizer()
        style = resolve_style(model.config.render, self._format, self._asked[1])
        thoughts = style == "chat_template" and self._corpus_has_thoughts
        return {"style": style, "render_options": options_of(model.config), "with_thoughts": thoughts}

    def generation_spec(self, model: AskedModel, task: AskedTask, engine: Engine) -> StageSpec:
        """Specify a stage: questions and a model → completions, and the results of the programs in them."""
        asked, name = self.config.generation, f"generation/{model.label}/{task.name}"
        rendering = self._rendering(model)
        seed = self.context.config.seed
        settings: dict[str, Any] = {
            "passes": list(task.passes), "max_new_tokens": task.max_new_tokens, **engine.settings,
            "samples": asked.samples,
            "questions_per_part": asked.questions_per_part, "temperature": asked.temperature,
            "style": rendering["style"], "with_thoughts": rendering["with_thoughts"],
            "render_options": {**rendering["render_options"], "date": str(rendering["render_options"]["date"])},
        }  # fmt: skip
        if engine.name == TRANSFORMERS:  # vLLM forms its own batches
            settings["tokens_per_batch"] = asked.tokens_per_batch
        if asked.temperature > 0:
            settings["seed"] = seed
        if "pot" in task.passes:
            settings["program_stem"] = self.config.program_stem
            settings["sandbox"] = self.config.sandbox.model_dump(mode="json", exclude=_NOT_IN_KEY)
        inputs = {"questions": task.content, "model": model.content}
        spec: list[StageSpec] = []  # filled below: the files are marked with the stage's key

        def build(out: Storage) -> StageResult:
            return self._generate(model, task, engine, rendering, spec[0].key, name, out)

        folder = f"generation/{model.label}-{task.name}"
        spec.append(StageSpec(name, settings, inputs, build, folder=folder, kind="generation"))
        return spec[0]

    def _generate(
        self,
        model: AskedModel,
        task: AskedTask,
        engine: Engine,
        rendering: dict[str, Any],
        key: str,
        name: str,
        out: Storage,
    ) -> StageResult:
        from s2l_ray.stages.evaluation.build import check_nodes, generate, generate_by_vllm
        from s2l_ray.stages.evaluation.generate_vllm import VllmTask
        from s2l_ray.stages.evaluation.part import PartJob

        context, asked = self.context, self.config.generation
        placement = context.layout.placements["evaluation"]
        if "pot" in task.passes:
            check_nodes(sandbox_settings(self.config, 1), placement, context.layout.embedded)
        jobs = [
            PartJob(
                key, number, questions, task.passes, self.config.program_stem, task.max_new_tokens,
                asked.tokens_per_batch, asked.samples, asked.temperature, context.config.seed, out,
            )
            for number, questions in enumerate(parts_of(task.questions, asked.questions_per_part))
        ]  # fmt: skip
        job, max_failures = self._job_of(model, engine, rendering), context.config.resources.max_failures
        if engine.name == VLLM:
            self._close_pool()  # because its workers hold the GPUs
            context.progress.say(f"[{name}] {engine.describe()}, {placement.describe()}")
            how = functools.partial(
                generate_by_vllm,
                VllmTask(job, engine, placement, self._engines.card, max_failures, name),
                say=context.progress.say,
            )
        else:
            how = functools.partial(generate, self._pool_of(model, job, engine))
        with context.progress.stage(name, len(task.questions), "questions") as bar:
            made = how(jobs, out, on_rows=lambda rows: bar.update(advance=rows))
        artifact = GenerationArtifact(
            model=model.label, task=task.name, form=form_of(task), engine=engine.name, dtype=engine.dtype,
            num_questions=len(task.questions), num_parts=len(jobs), num_new_tokens=made.counts["new_tokens"],
            finish=made.finish, outcomes=made.outcomes, num_not_rendered=made.counts["quarantined"],
            sandbox=made.sandboxes, num_halved_batches=made.num_halved, engine_version=engine.version,
            batch_invariant=engine.batch_invariant,
        )  # fmt: skip
        line = f"{len(task.questions):,} questions, {format_count(made.counts['new_tokens'])} new tokens"
        if made.outcomes:
            line += "; programs: " + ", ".join(f"{n} {made.outcomes[n]:,}" for n in sorted(made.outcomes))
        counts = {"questions": len(task.questions), "completions": sum(made.finish.values())}
        seeds = {"samples": context.config.seed} if asked.temperature > 0 else {}
        return StageResult(
            fingerprint(made.content), counts, artifact, warnings_of(artifact, self.config), seeds, made.device,
            min(placement.num_workers, len(jobs)), summary=line,
        )  # fmt: skip

    def _pool_of(self, model: AskedModel, job: ModelJob, engine: Engine) -> Any:
        """The model's workers, which are kept for its next task."""
        from s2l_ray.stages.evaluation.build import model_pool

        if not hasattr(self, "_workers"):
            context, placement = self.context, self.context.layout.placements["evaluation"]
            context.layout.wait_for_capacity("evaluation", context.progress.say)
            context.progress.say(f"[generation/{model.label}] {engine.describe()}, {placement.describe()}")
            what, failures = f"generation/{model.label}", context.config.resources.max_failures
            pool = model_pool(job, placement, what, failures, context.progress.say)
            self._workers = self._pool.enter_context(pool)
        return self._workers

    def _job_of(self, model: AskedModel, engine: Engine, rendering: dict[str, Any]) -> ModelJob:
        from s2l_ray.stages.evaluation.worker import ModelJob

        placement = self.context.layout.placements["evaluation"]
        return ModelJob(
            model.source, rendering["style"], rendering["render_options"], rendering["with_thoughts"],
            engine.dtype, placement.device, placement.threads,
            sandbox_settings(self.config, max(1, int(placement.cpus_per_worker))),
        )  # fmt: skip

    def _close_pool(self) -> None:
        self._pool.close()
        if hasattr(self, "_workers"):
            del self._workers

    # Verdicts.

    def evaluation_spec(self, model: AskedModel, task: AskedTask, generation: Stage, contamination: Stage) -> StageSpec:
        """Specify a stage: completions and flags → verdicts and the report."""
        name, config = f"evaluation/{model.label}/{task.name}", self.config
        made = GenerationArtifact.of(generation)

        def build(out: Storage) -> StageResult:
            return self._judge(model, task, generation, contamination, made, out)

        settings: dict[str, Any] = {
            "rule": task.task.rule, "rules_version": RULES_VERSION, "group_by": list(task.task.group_by),
            "metric": task.task.metric, "confidence": config.confidence.model_dump(mode="json"),
            "seed": self.context.config.seed, "form": made.form,
        }  # fmt: skip
        if task.task.rule == SUMMARY:
            settings["bertscore"] = config.bertscore.stored()
        if task.task.rule == "math":  # answers in LaTeX are compared in the sandbox, with its limits
            settings["sandbox"] = config.sandbox.model_dump(mode="json", exclude=_NOT_IN_KEY)
        inputs = {
            "generation": generation.content, "questions": task.content, "contamination": contamination.content,
            "model": model.content, "corpus": self._corpus.content,
        }  # fmt: skip
        folder = f"evaluation/{model.label}-{task.name}"
        return StageSpec(name, settings, inputs, build, folder=folder, kind="evaluation")

    def _judge(
        self,
        model: AskedModel,
        task: AskedTask,
        generation: Stage,
        contamination: Stage,
        made: GenerationArtifact,
        out: Storage,
    ) -> StageResult:
        from s2l_ray.stages.evaluation.score import Flags, judge

        table = contamination.storage.read_table("overlap.parquet")
        rows = table.to_pylist()
        flags = Flags(
            {row["question_id"]: row["exact"] or row["ngram"] for row in rows},
            {row["question_id"]: row["template"] for row in rows},
        )
        facts = {
            "model": model.label, "form": made.form, "engine": made.engine, "dtype": made.dtype,
            "device": generation.manifest.device, "rules_version": RULES_VERSION, "sandbox": made.sandbox,
            "generation": generation.folder, "notes": generation.warnings,
            "engine_version": made.engine_version, "batch_invariant": made.batch_invariant,
        }  # fmt: skip
        judged = judge(task, generation.storage, flags, self.config, self.context.config.seed, facts, out)
        sandboxes = [*made.sandbox, *([judged.sandbox] if judged.sandbox else [])]
        artifact = EvaluationArtifact(
            model=model.label, task=task.name, form=made.form, engine=made.engine, dtype=made.dtype,
            device=generation.manifest.device, rules_version=RULES_VERSION, num_questions=judged.num_questions,
            figures=judged.report["figures"], shares=judged.report["shares"], sandbox=sandboxes,
            engine_version=made.engine_version, batch_invariant=made.batch_invariant,
        )  # fmt: skip
        return StageResult(
            judged.content, {"questions": judged.num_questions}, artifact, judged.warnings,
            {"bootstrap": self.context.config.seed}, summary=summary_line(judged.report),
        )  # fmt: skip
