"""Describes what a sweep would try and what it would cost: trials and deciding questions. Starts nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from s2l_ray.config.schema import S2LConfig
from s2l_ray.config.target import TargetConfig
from s2l_ray.observability.progress import format_count, format_duration
from s2l_ray.stages.corpus.stage import check_corpus_files
from s2l_ray.stages.evaluation.tasks import AskedTask
from s2l_ray.stages.reference import passes_of
from s2l_ray.storage.folder import Storage
from s2l_ray.sweeps.objective import asking, read_asked
from s2l_ray.sweeps.resolve import resolve
from s2l_ray.sweeps.trials import FULL, Trial, full_trials, grid, selecting
from s2l_ray.workflow.estimate import Estimate, estimate
from s2l_ray.workflow.evaluation_estimate import TaskCost, task_cost
from s2l_ray.workflow.preflight import preflight
from s2l_ray.workflow.target_estimate import CorpusSize, TargetCost, reference_cost, target_costs


@dataclass(frozen=True)
class SweepDryRun:
    """What a sweep would try, and its estimated cost."""

    lines: list[str]
    """As lines of text."""
    facts: dict[str, Any]
    """As JSON data."""


def sweep_dry_run(
    config: S2LConfig | str, overrides: Sequence[str] = (), *, find_smallest: bool = False, within: float | None = None
) -> SweepDryRun:
    """Estimate a sweep, and perform all checks that it performs before it starts.

    Raises:
        ConfigError, EvaluationError, ModelError, …: the sweep would be refused.
    """
    resolved = resolve(config, overrides, within, find_smallest)
    preflight(asking(resolved))
    doubts = check_corpus_files(resolved, selecting(resolved))
    made = estimate(_choosing(resolved))
    trials, about = _trials(resolved)
    costs = _training_costs(resolved, trials, made.corpus)
    reference = _reference_cost(resolved, trials, made.corpus)
    answers = _answers_cost(resolved, made)
    notes = [*made.notes, *doubts]
    if find_smallest:
        notes.append(
            "--find-smallest fine-tunes the target only at the budgets that bisection visits, at most these; before "
            "that, the proxy's model is trained at all of them"
        )
    elif resolved.sweep.predict:
        notes.append("sweep.predict trains the proxy's model at the same budgets first")
    if resolved.sweep.asha is not None:
        notes.append("sweep.asha stops some trials early")
    lines = [
        f"{resolved.name}: {about}, judged by {resolved.sweep.metric}", *made.lines(resolved),
        *_reference_lines(resolved, trials, reference), _training_line(resolved, costs),
        *_answers_lines(resolved, len(trials), answers), *(f"note          {note}" for note in notes),
        "Dry run: nothing was started.",
    ]  # fmt: skip
    facts = {
        "name": resolved.name,
        "metric": resolved.sweep.metric,
        "search": resolved.sweep.search,
        "trials": [
            {**trial.plain(), "cost": None if costs is None else costs[number].__dict__}
            for number, trial in enumerate(trials)
        ],
        "selection": made.plain(),
        "reference": None if reference is None or reference.cost is None else reference.cost.__dict__,
        "answers": None if answers is None else answers.plain(resolved),
        "notes": notes,
        "configuration": resolved.stored(),
    }
    return SweepDryRun(lines, facts)


def _choosing(config: S2LConfig) -> S2LConfig:
    """The configuration with the sweep's selectors instead of those for single runs."""
    selection = config.selection.model_copy(update={"selectors": config.sweep.selectors})
    return config.model_copy(update={"selection": selection})


def _trials(config: S2LConfig) -> tuple[list[Trial], str]:
    """The trials of a grid, or as many as a search may run, whose settings are not known yet; and how many, in
    words."""
    sweep = config.sweep
    if sweep.search == "grid":
        trials = grid(config)
        return trials, f"{len(trials):,} trials"
    full = full_trials(config)
    drawn = [trial for trial in grid(config) if trial not in full]
    wanted = sweep.num_samples or len(drawn)
    trials = [*full, *(drawn[i % len(drawn)] for i in range(wanted))]
    return trials, f"at most {len(trials):,} trials by {sweep.search} search, estimated with the ends of its ranges"


@dataclass(frozen=True)
class _Reference:
    """The target whose scores trials select by; it is trained once for each corpus that they try."""

    cost: TargetCost | None
    """None if the size of the corpus is unknown."""
    num_corpora: int = 1


def _reference_cost(config: S2LConfig, trials: Sequence[Trial], corpus: CorpusSize | None) -> _Reference | None:
    readers = {trial: trial.config(config) for trial in trials if trial.scores_with_target(config)}
    if not readers or corpus is None:
        return _Reference(None) if readers else None
    corpora: dict[tuple[tuple[str, Any], ...], dict[tuple[Any, ...], S2LConfig]] = {}
    for trial, reader in readers.items():
        of = tuple((path, repr(value)) for path, value in trial.parameters if path.startswith("corpus."))
        asked = reader.selection.reference
        corpora.setdefault(of, {}).update(
            {(need, asked.early_share, asked.embedding_dim): reader
             for need in passes_of(reader, reader.selection.selectors)}
        )  # fmt: skip
    costs = []
    for passes in corpora.values():
        # As in the trials: their selection, but the configuration's own target.
        one = next(iter(passes.values())).model_copy(update={"target": config.target})
        cost = reference_cost(one, corpus, len(passes))
        assert cost is not None
        costs.append(cost)
    if len(costs) == 1:
        return _Reference(costs[0])
    money = [one.money for one in costs if one.money is not None]
    whole = replace(costs[0], flops=sum(one.flops for one in costs), seconds=sum(one.seconds for one in costs),
                    tokens=sum(one.tokens for one in costs), money=sum(money) if money else None)  # fmt: skip
    return _Reference(whole, len(costs))


def _reference_lines(config: S2LConfig, trials: Sequence[Trial], reference: _Reference | None) -> list[str]:
    if reference is None:
        return []
    if reference.cost is None:
        return ["reference     the target, fine-tuned on everything"]
    many = f", once for each of {reference.num_corpora} corpora" if reference.num_corpora > 1 else ""
    lines = [
        f"reference     the target, fine-tuned on everything, scores the corpus{many}",
        reference.cost.line(config.estimates.price_per_worker_hour),
    ]
    own = Trial(FULL, 1.0, config.seed_of("target"))
    if own in trials:
        lines.append(
            f"note          {own.describe()}, is the same target: trained once, but counted here and with the trials"
        )
    return lines


def _training_costs(config: S2LConfig, trials: Sequence[Trial], corpus: CorpusSize | None) -> list[TargetCost] | None:
    """The cost of each trial's training; None if the size of the corpus is unknown."""
    if corpus is None:
        return None
    known: dict[str, TargetCost] = {}
    for trial in trials:
        if trial.key not in known:
            [known[trial.key]] = target_costs(trial.config(config), corpus)
    return [known[trial.key] for trial in trials]


def _training_line(config: S2LConfig, costs: list[TargetCost] | None) -> str:
    if costs is None:
        return "trials        unknown: the size of the corpus is unknown (estimates.num_examples)"
    money = [cost.money for cost in costs if cost.money is not None]
    price = config.estimates.price_per_worker_hour
    paid = f", {sum(money):,.2f} at {price:g} per worker-hour" if money else ""
    return (
        f"trials        fine-tune on {format_count(sum(cost.tokens for cost in costs))} tokens in all, "
        f"{sum(cost.flops for cost in costs):.2e} FLOPs, about {format_duration(sum(cost.seconds for cost in costs))} "
        f"one after the other{paid}"
    )


@dataclass(frozen=True)
class _Answers:
    """The questions that every trial's target is asked, and the cost of one trial's answers."""

    task: AskedTask
    cost: TaskCost | None
    """None if the format of the corpus is unknown."""

    def plain(self, config: S2LConfig) -> dict[str, Any]:
        plain: dict[str, Any] = {"task": self.task.name, "num_questions": len(self.task.questions)}
        return plain | {"cost_per_trial": None if self.cost is None else self.cost.plain(config)}


def _answers_cost(config: S2LConfig, made: Estimate) -> _Answers | None:
    with tempfile.TemporaryDirectory() as scratch:  # the built-in corpus's questions are generated in the run's folder
        asked = read_asked(config, Storage.open(scratch), lambda text: None)
    if not asked:
        return None
    [task] = asked
    return _Answers(task, _cost_of(asking(config), task, made.rendered_format))


def _answers_lines(config: S2LConfig, num_trials: int, answers: _Answers | None) -> list[str]:
    if answers is None:
        return []
    task, cost = answers.task, answers.cost
    if cost is None:
        return [
            f"answers       {len(task.questions):,} questions of {task.name} for each of {num_trials:,} trials; their "
            "cost is unknown, because the format of the corpus is unknown"
        ]
    workers = config.resources.evaluation.workers or 1
    each, whole = cost.seconds(config) / workers, num_trials * cost.seconds(config) / workers
    return [
        *cost.lines,
        f"answers       at most {format_count(num_trials * cost.tokens)} tokens, {num_trials * cost.flops:.2e} FLOPs "
        f"for {num_trials:,} trials, {format_duration(whole)} one after the other, {format_duration(each)} each, with "
        f"{workers} worker{'s' if workers > 1 else ''} at {config.estimates.device_tflops:g} TFLOP/s "
        "(estimates.device_tflops); decoding on GPUs is memory-bound and reaches only a fraction of that speed",
    ]


def _cost_of(config: S2LConfig, task: AskedTask, format: str | None) -> TaskCost | None:
    target = config.target
    assert target is not None
    if format is None:
        return None
    tokenizer, model_config = _loaded(target, task)
    return task_cost(config, "each trial", target, tokenizer, model_config, task, format)


def _loaded(target: TargetConfig, task: AskedTask) -> tuple[Any, Any]:
    """The target's tokenizer and config; a tokenizer still to be trained is approximated by one trained on the
    questions."""
    from s2l_ray.lm.load import load_model_config, load_tokenizer, train_tokenizer
    from s2l_ray.lm.vocabulary import num_token_ids

    if target.train_tokenizer is None:
        tokenizer = load_tokenizer(target)
    else:
        texts = (text for question in task.questions for text in (question.text, question.gold))
        tokenizer = train_tokenizer(texts, target.train_tokenizer.vocab_size)
    vocab = target.train_tokenizer.vocab_size if target.train_tokenizer else num_token_ids(tokenizer)
    return tokenizer, load_model_config(target, vocab_size=vocab)
