"""Exports tasks for lm-evaluation-harness, with the target's prompts and this project's rules as the metric.

https://github.com/EleutherAI/lm-evaluation-harness, docs/task_guide.md
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import yaml

from s2l_ray.artifacts.models import CorpusArtifact
from s2l_ray.artifacts.run import Run, load_run
from s2l_ray.data.units import UnusableRow
from s2l_ray.evaluation.errors import EvaluationError
from s2l_ray.evaluation.prompts import messages
from s2l_ray.evaluation.tasks import SUMMARY
from s2l_ray.stages.evaluation.models import AskedModel, models_of
from s2l_ray.stages.evaluation.tasks import AskedTask, check_evaluation, read_tasks
from s2l_ray.storage.output_folder import check_output_file, make_output_folder, output_place
from s2l_ray.workflow.evaluate import EvaluationRequest

_RULES = "s2l_rules.py"
_COLUMNS = ["prompt", "question", "gold", "rule", "task"]
"""Columns of an exported task's questions."""
_METRIC = '''"""Verdicts by s2l_ray's rules; lm_eval calls `judge` for every answer."""

import functools

from s2l_ray.evaluation.answers.grading import grade
from s2l_ray.evaluation.answers.symbolic import ProcessComparer


@functools.cache
def _comparer():
    return ProcessComparer()


def _compare(gold, answer):
    return _comparer()(gold, answer)


def judge(doc, results):
    made = grade(doc["rule"], doc["gold"], results[0], _compare, question=doc["question"], task=doc["task"])
    return {"correct": float(made.correct)}
'''

_READY = """

_comparer().start()  # a missing package is an error now, not after all answers have been generated
"""


def rules_module(rules: Sequence[str]) -> str:
    """Return the text of the module that judges answers by these rules."""
    return _METRIC + _READY * ("math" in rules)


def export_tasks(run: Run | str, request: EvaluationRequest, folder: str) -> list[str]:
    """Write a YAML and a JSONL file for each task, and the rules as Python.

    Programs are not supported, because lm-evaluation-harness would not isolate them: every question asks for a chain of
    thought.

    Returns:
        The files written, and the commands to run them with.

    Raises:
        EvaluationError: a task cannot be exported.
    """
    opened = load_run(run) if isinstance(run, str) else run
    config = request.config(opened.config)
    check_evaluation(config, generates=False)
    assert config.evaluation is not None
    tasks = read_tasks(config, opened.storage, lambda text: None)
    if summaries := [task.name for task in tasks if task.task.rule == SUMMARY]:
        raise EvaluationError(
            f"{', '.join(summaries)} is measured with BLEU and ROUGE over all summaries, which this export does not "
            "support; leave it out with --tasks"
        )
    models = models_of(opened, config, config.evaluation.subsets, request.model)
    out = output_place(folder, "--export-lm-eval")
    make_output_folder(out, "--export-lm-eval")
    _refuse_others_files(out, tasks)
    (out / _RULES).write_text(rules_module([task.task.rule for task in tasks]), encoding="utf-8")
    format = CorpusArtifact.of(opened.stage("corpus")).rendered_format
    for task in tasks:
        _write_task(out, task, models[0], format)
    return [f"{out}/{task.name}.yaml" for task in tasks] + _commands(out, tasks, models)


def _refuse_others_files(out: Path, tasks: Sequence[AskedTask]) -> None:
    """Raises UserError, before anything is written, if the folder has files of these names that are no exported tasks:
    most likely the questions themselves, `evaluation.data.folder`."""
    checks = {_RULES: _is_rules} | {f"{task.name}.yaml": _is_task for task in tasks}
    checks |= {f"{task.name}.jsonl": _is_questions for task in tasks}
    for name, is_own in checks.items():
        check_output_file(out / name, is_own, "an exported task of s2l evaluate", "--export-lm-eval")


def _is_rules(head: bytes) -> bool:
    return head.startswith(_METRIC.partition("\n")[0].encode())


def _is_task(head: bytes) -> bool:
    return head.startswith(b"task: s2l_")


def _is_questions(head: bytes) -> bool:
    try:
        row = json.loads(head.partition(b"\n")[0])
    except ValueError:
        return False
    return isinstance(row, dict) and list(row) == _COLUMNS


def _write_task(out: Path, task: AskedTask, model: AskedModel, format: str) -> None:
    from s2l_ray.data.render import Renderer, options_of, resolve_style

    tokenizer = model.source.load_tokenizer()
    style = resolve_style(model.config.render, format, tokenizer)
    renderer = Renderer(tokenizer, style, 1 << 30, **options_of(model.config))
    rows = []
    for question in task.questions:
        prompt = renderer.prompt_text(messages(question, "cot"))
        if isinstance(prompt, UnusableRow):
            raise EvaluationError(f"task {task.name}: question {question.id.hex()} cannot be rendered: {prompt}")
        values = (prompt, question.text, question.gold, task.task.rule, task.name)
        rows.append(dict(zip(_COLUMNS, values, strict=True)))
    data = out / f"{task.name}.jsonl"
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    fields = {
        "task": f"s2l_{task.name}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data.resolve())}},
        "test_split": "test",
        "output_type": "generate_until",
        "num_fewshot": 0,
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{gold}}",
        "generation_kwargs": {
            "until": [tokenizer.decode([end]) for end in renderer.end_ids()],
            "max_gen_toks": task.max_new_tokens, "do_sample": False, "temperature": 0.0,
        },
        "metric_list": [{"metric": "correct", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }  # fmt: skip
    text = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)
    rules = f"process_results: !function {_RULES.removesuffix('.py')}.judge\n"  # a tag of lm_eval's YAML loader
    (out / f"{task.name}.yaml").write_text(text + rules, encoding="utf-8")


def _commands(out: Path, tasks: Sequence[AskedTask], models: Sequence[AskedModel]) -> list[str]:
    names = ",".join(f"s2l_{task.name}" for task in tasks)
    lines = []
    for model in models:
        exported = model.source.exported
        where = model.config.model if exported is None else exported.locator() if exported.is_local else exported.uri
        arguments = ["--model", "hf", "--model_args", f"pretrained={where}", "--tasks", names, "--include_path"]
        lines.append(shlex.join(["lm_eval", *arguments, str(out.resolve())]))
    return lines
