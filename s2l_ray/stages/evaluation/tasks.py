"""Reads the configured tasks' questions, and refuses everything that can be refused before a question is answered."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from s2l_ray.artifacts.generated_corpus import quickstart_units
from s2l_ray.config.corpus import QuickstartSource
from s2l_ray.config.evaluation import EvaluationConfig
from s2l_ray.config.schema import S2LConfig
from s2l_ray.data.sources import ReadUnit, plan_files, read_unit
from s2l_ray.data.units import clip_names
from s2l_ray.errors import foreign_named, shown
from s2l_ray.evaluation.bertscore import MIN_REFERENCES_FOR_IDF, read_baseline
from s2l_ray.evaluation.errors import EvaluationError
from s2l_ray.evaluation.prompts import Form, Pass, passes
from s2l_ray.evaluation.questions import MAX_QUESTIONS, Question, first_by_id, read_questions
from s2l_ray.evaluation.sandbox import EXTRA, SandboxSettings, probe_node
from s2l_ray.evaluation.summaries import check_language
from s2l_ray.evaluation.tasks import QUICKSTART, SUMMARY, Task, tasks_of
from s2l_ray.execution.session import is_embedded
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage


@dataclass(frozen=True)
class AskedTask:
    """One task with its questions."""

    task: Task
    questions: list[Question]
    """The questions, sorted by id."""
    passes: tuple[Pass, ...]
    max_new_tokens: int

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def content(self) -> str:
        """Fingerprint of everything read from the files; ids are hashes of question and gold answer."""
        return fingerprint([[q.id.hex(), sorted(q.groups.items()), q.findings] for q in self.questions])


def read_tasks(config: S2LConfig, run_storage: Storage, say: Callable[[str], None]) -> list[AskedTask]:
    """Read all tasks of the section `evaluation`.

    Raises:
        EvaluationError: a file cannot be read, or a question is unusable.
    """
    return _read_all(config, _section(config), run_storage, say)


def _read_all(
    config: S2LConfig, asked: EvaluationConfig, run_storage: Storage, say: Callable[[str], None]
) -> list[AskedTask]:
    return [_read(config, asked, task, run_storage, say) for task in tasks_of(asked.tasks, asked.custom)]


def _section(config: S2LConfig) -> EvaluationConfig:
    if config.evaluation is None:
        raise EvaluationError(
            "the configuration has no section `evaluation`, so it is unknown which questions to ask; add one, or "
            "evaluation.tasks=[gsm8k] evaluation.data.folder=… to the command"
        )
    return config.evaluation


def _read(
    config: S2LConfig, asked: EvaluationConfig, task: Task, run_storage: Storage, say: Callable[[str], None]
) -> AskedTask:
    form: Form = task.form or asked.form  # type: ignore[assignment]
    lengths = asked.generation.max_new_tokens
    units = _units(config, asked, task, run_storage, say)
    questions = read_questions(task, _lines(task, units), _where(task, asked))
    if task.name in asked.custom:
        _check_groups(task, questions, units, _where(task, asked))
    return AskedTask(
        task, first_by_id(questions, asked.limit), passes(form, task.has_programs),
        lengths.get(task.name, lengths.get("default", task.max_new_tokens)),
    )  # fmt: skip


def _check_groups(task: Task, questions: list[Question], units: list[ReadUnit], where: str) -> None:
    for column in task.group_by:
        if not any(column in question.groups for question in questions):
            there = list(json.loads(next(_lines(task, units))))
            raise EvaluationError(
                f"evaluation.custom.{task.name}.group_by names {shown(column)}, which no question in {where} has (the "
                f"first has {clip_names(there)}), so results could not be broken down by it; correct it, or leave it "
                "out"
            )


def _where(task: Task, asked: EvaluationConfig) -> str:
    if task.name in asked.custom:
        return f"evaluation.custom.{task.name}.files"
    return f"evaluation.data.files.{task.name}" if task.name in asked.data.files else "its file"


def _units(
    config: S2LConfig, asked: EvaluationConfig, task: Task, run_storage: Storage, say: Callable[[str], None]
) -> list[ReadUnit]:
    if task.name == QUICKSTART:
        of = _check_quickstart(config).model_dump()
        return [quickstart_units(run_storage, seed=config.seed, say=say, **of)[1]]
    where = _where(task, asked)
    if task.name in asked.custom:
        paths = asked.custom[task.name].files
    elif task.name in asked.data.files:
        paths = asked.data.files[task.name]
    elif asked.data.folder is not None:
        folder, mark, options = asked.data.folder.partition("?")
        paths = [f"{folder.rstrip('/')}/{task.name}.jsonl{mark}{options}"]
        where = "evaluation.data.folder"
    else:
        raise EvaluationError(
            f"task {task.name} has no questions: set evaluation.data.folder to a folder with {task.name}.jsonl, or "
            f"evaluation.data.files.{task.name}"
        )
    return plan_files(paths, 2**40, where, config.run_uri)


def _check_quickstart(config: S2LConfig) -> QuickstartSource:
    if config.corpus.quickstart is None:
        raise EvaluationError(
            "task quickstart is the built-in corpus's test, but corpus.quickstart is not set: its questions are "
            "meaningless for a model trained on other data; leave the task out"
        )
    return config.corpus.quickstart


def _lines(task: Task, units: list[ReadUnit]) -> Iterator[str]:
    """Yield the rows of files of any format, each as a line with a JSON object."""
    for count, raw in enumerate(raw for unit in units for raw in read_unit(unit)):
        if raw.row is None:
            raise EvaluationError(
                f"task {task.name}: row {raw.index:,} of {raw.origin} cannot be read ({raw.reason}); fix it, or remove "
                "it"
            )
        if count >= MAX_QUESTIONS:
            raise EvaluationError(f"task {task.name} has more than {MAX_QUESTIONS:,} questions; use fewer files")
        yield json.dumps(raw.row, ensure_ascii=False, default=str)


def sandbox_settings(asked: EvaluationConfig, processes: int | None = None) -> SandboxSettings:
    """The sandbox's settings as configured.

    Args:
        processes: number of processes, if it is not configured.
    """
    given = asked.sandbox
    return SandboxSettings(
        mode=given.mode, seconds=given.seconds, memory_mb=given.memory_mb, output_kb=given.output_kb,
        processes=given.processes or processes, programs_run_with_my_rights=given.i_know_programs_run_with_my_rights,
    )  # fmt: skip


def check_evaluation(config: S2LConfig, tasks: list[AskedTask] | None = None, generates: bool = True) -> None:
    """Refuse an evaluation that would fail after hours of generating.

    Args:
        tasks: the tasks with their questions; None: read those of the configuration now.
        generates: False if existing text is judged, whatever generated it, so that no engine is needed.

    Raises:
        EvaluationError: the message says what is wrong and how to fix it.
    """
    asked = _section(config)
    known = tasks_of(asked.tasks, asked.custom)
    _check_libraries(asked, known)
    _check_lengths(asked, known)
    if generates:
        _check_engine(config, asked)
    _check_comparer(asked, known)
    for task in known:
        metric_of(task)
    if tasks is None:  # the quickstart's are generated in the run's folder, which this command does not hold yet
        named = [name for name in asked.tasks if name != QUICKSTART]
        readable = asked.model_copy(update={"tasks": named})
        tasks = _read_all(config, readable, Storage.open(config.run_uri), lambda text: None)
        if len(named) < len(asked.tasks):
            _check_quickstart(config)
    for one in tasks:
        if one.task.rule == SUMMARY:
            _check_summaries(asked, one)


def _check_libraries(asked: EvaluationConfig, tasks: list[Task]) -> None:
    needed: dict[str, str] = {}
    for task in tasks:
        form = task.form or asked.form
        if task.rule == SUMMARY:
            needed |= dict.fromkeys(("sacrebleu", "rouge_score"), f"task {task.name}")
        elif task.rule == "math":
            needed |= dict.fromkeys(("math_verify", "sympy"), f"task {task.name}")
        elif task.has_programs and form != "cot":
            needed |= {"sympy": f"form={form}"}
    for package, what in needed.items():
        if importlib.util.find_spec(package) is None:
            raise EvaluationError(
                f"{what} needs the package {package}, which is not installed, so its answers could not be judged; "
                f"{EXTRA}"
            )


def _check_engine(config: S2LConfig, asked: EvaluationConfig) -> None:
    """Check what can be checked about vLLM before nodes are asked."""
    if asked.generation.engine != "vllm":
        return
    by_transformers = "set evaluation.generation.engine=transformers"
    if config.resources.device == "cpu":
        raise EvaluationError(
            "evaluation.generation.engine=vllm with resources.device=cpu: vLLM generates on GPUs, so nothing would be "
            f"generated; set resources.device=gpu, or {by_transformers}"
        )
    if is_embedded(config.resources) and importlib.util.find_spec("vllm") is None:
        raise EvaluationError(
            "evaluation.generation.engine=vllm, but the package vllm is not installed on this machine, the only one "
            f'that would generate; `pip install "ray[llm]"` has the version that belongs to this Ray, or '
            f"{by_transformers}"
        )


def _check_comparer(asked: EvaluationConfig, tasks: list[Task]) -> None:
    """Answers in LaTeX are compared in a sandbox on the machine of the command, after everything was generated."""
    names = [task.name for task in tasks if task.rule == "math"]
    if not names or asked.sandbox.mode not in ("auto", "bwrap"):
        return
    report = probe_node(sandbox_settings(asked, 1))
    if not report.isolated:
        raise EvaluationError(
            f"task {names[0]}: answers in LaTeX are compared in a sandbox on this machine, {report.node}, which cannot "
            f"isolate it ({report.fault}), so they could not be judged after all were generated. Start the command "
            "where Linux is ≥ 5.13 with Landlock, set evaluation.sandbox.mode=bwrap, or, where this machine is a "
            f"sandbox itself, evaluation.sandbox.mode=external; or leave {', '.join(names)} out"
        )


def _check_lengths(asked: EvaluationConfig, tasks: list[Task]) -> None:
    names = [task.name for task in tasks]
    for name in asked.generation.max_new_tokens:
        if name != "default" and name not in names:
            raise EvaluationError(
                f"evaluation.generation.max_new_tokens names {shown(name)}, which is none of the tasks "
                f"({', '.join(names)}), so it would do nothing; correct it, or write `default`"
            )
    for name in asked.data.files:
        if name not in names:
            raise EvaluationError(
                f"evaluation.data.files names {shown(name)}, which is none of the tasks ({', '.join(names)}), so it "
                "would not be read; add it to evaluation.tasks, or remove it"
            )


def _check_summaries(asked: EvaluationConfig, task: AskedTask) -> None:
    check_language([question.gold for question in task.questions])
    bertscore = asked.bertscore
    if bertscore.model is None:
        return
    if bertscore.idf and len(task.questions) < MIN_REFERENCES_FOR_IDF:
        raise EvaluationError(
            f"evaluation.bertscore.idf with {len(task.questions)} references for task {task.name}: that is too few to "
            f"estimate rarity; set idf: false, or ask at least {MIN_REFERENCES_FOR_IDF} questions"
        )
    if bertscore.rescale is not None:
        read_baseline(bertscore.rescale, bertscore.layer)
    from transformers import AutoConfig

    what = f"evaluation.bertscore.model={shown(bertscore.model)} cannot be loaded, so BERTScore could not be computed"
    cure = "Give the folder or hub id of an encoder, or set evaluation.bertscore.model=null"
    with foreign_named(EvaluationError, what, cure):
        layers = AutoConfig.from_pretrained(bertscore.model, revision=bertscore.revision).num_hidden_layers
    if bertscore.layer > layers:
        raise EvaluationError(
            f"evaluation.bertscore.layer={bertscore.layer}, but {shown(bertscore.model)} has layers 0 to {layers}; "
            "choose one of them"
        )


def metric_of(task: Task) -> Callable[[Any], Any] | None:
    """The user's function.

    Raises:
        EvaluationError: there is no such function.
    """
    if task.metric is None:
        return None
    module, _, name = task.metric.partition(":")
    here = f"evaluation.custom.{task.name}.metric={shown(task.metric)}"
    with foreign_named(EvaluationError, f"{here} cannot be imported", "Install its package where the command runs"):
        function = getattr(importlib.import_module(module), name, None)
    if not callable(function):
        raise EvaluationError(f"{here}: {module} has no function {name}; correct the name")
    found: Callable[[Any], Any] = function
    return found
