"""The library's commands: a complete run, another subset, another target. All of them resume where they stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from s2l_ray.artifacts.index import FULL
from s2l_ray.artifacts.results import Target
from s2l_ray.artifacts.run import STAGES, Run, read_config
from s2l_ray.artifacts.runner import open_runner
from s2l_ray.artifacts.stage import Stage
from s2l_ray.config.load import ConfigError, load_config
from s2l_ray.config.schema import S2LConfig
from s2l_ray.config.selection import for_selector
from s2l_ray.config.subset_names import SubsetName, canonical, parse_subset_name
from s2l_ray.errors import shown
from s2l_ray.execution.ray_metrics import RayMetrics
from s2l_ray.observability.progress import Progress
from s2l_ray.storage.folder import Storage
from s2l_ray.workflow.preflight import preflight, without_evaluation

_FINETUNE_SECTIONS = ("target", "loggers", "resources", "estimates")

_WAIT_FOR_OTHERS_S = 600.0
"""Seconds that `select` and `finetune` wait for other commands on the run, since several may be started at once."""


def run(
    config: S2LConfig | str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    select_only: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Run a configuration: build all stages that are not complete yet.

    Args:
        config: a recipe's name, a YAML file, a mapping, or the typed tree.
        overrides: `section.field=value`, as on the command line.
        select_only: stop after the subsets; use `finetune` for targets.

    Raises:
        ConfigError, SourceError, PlacementError, RunLockedError, …: with the cause and the remedy.
    """
    if isinstance(config, S2LConfig):
        resolved = load_config(config.model_dump(mode="json"), overrides) if overrides else config
    else:
        resolved = load_config(config, overrides)
    progress = progress or Progress()
    # Before PyTorch and Ray are imported, which takes seconds.
    progress.say(f"[run] {resolved.name} in {resolved.run_uri}: checking models, corpus and cluster")
    from s2l_ray.execution.session import ray_session
    from s2l_ray.stages.context import RunContext
    from s2l_ray.stages.corpus.stage import check_corpus_files
    from s2l_ray.stages.layout import lay_out
    from s2l_ray.workflow.stages import run_stages

    wanted = resolved
    if select_only:
        scores_with_target = resolved.selection.reference.model == "target"
        wanted = without_evaluation(resolved if scores_with_target else resolved.model_copy(update={"target": None}))
    preflight(wanted)
    for note in check_corpus_files(wanted):
        progress.say(f"[run] {note}")
    opened = Run(wanted, Storage.open(resolved.run_uri))
    with open_runner(opened, progress, RayMetrics(wanted.name)) as runner:
        opened.begin(resolved)  # the stored configuration includes the target and its evaluation
        with ray_session(resolved.resources):
            layout = lay_out(wanted, runner.progress.say, storage=opened.storage)
            run_stages(RunContext(wanted, runner, layout), select_only)
        opened.find_others_work()
    return opened


def select(
    run: Run | str,
    budget: int | float,
    selector: str | None = None,
    seed: int | None = None,
    stratify: bool | str | None = None,
    overrides: Sequence[str] = (),
    *,
    progress: Progress | None = None,
) -> Stage:
    """Select another subset from a finished run, without training anything or starting Ray.

    Args:
        budget: number of examples (int) or share (float in (0, 1]).
        selector: None takes the run's first.
        seed, stratify: None takes the run's own. `stratify` may name a facet of the corpus.
        overrides: `selection.field=value`, such as `selection.allocation_exponent=0.5`.

    Returns:
        The subset's stage; `.storage` holds subset.jsonl, subset.parquet and ids.parquet.
    """
    from s2l_ray.workflow.stages import subset_stage

    _refuse_other_sections(overrides)
    opened = open_run(run)
    selector = opened.config.selection.selectors[0] if selector is None else selector
    how = (seed, stratify, overrides)
    _selecting(opened.config, budget, selector, *how)  # refused before the lock is waited for
    metrics = RayMetrics(opened.config.name)
    with open_runner(opened, progress or Progress(), metrics, _WAIT_FOR_OTHERS_S) as runner:
        find_selection(opened, reread=isinstance(run, str))
        config = _selecting(opened.config, budget, selector, *how)
        before = dict(opened.stages)
        stage = subset_stage(config, opened, runner, selector, config.selection.budgets[0])
        if stage.name in before and before[stage.name].folder != stage.folder:
            opened.find_stages()  # if two subsets have that name, one of them is the run's
    return stage


def finetune(
    run: Run | str,
    subset: str | None = None,
    overrides: Sequence[str] = (),
    *,
    budget: int | float | None = None,
    selector: str | None = None,
    progress: Progress | None = None,
) -> Target:
    """Fine-tune the target on one subset of a finished selection, or on the full data, and measure its held-out losses;
    for test questions, use `evaluate`.

    Args:
        subset: `full`, or a subset's name (`s2l-0.11`), which is selected now if it does not exist; None: the subset
        given by `selector` and `budget`.
        overrides: `target.model=…`, and other settings of `target`, `heldout.files`, `loggers`, `resources` and
        `estimates`. Settings that affect the selection cannot be changed.
        budget, selector: None takes the run's first.

    Returns:
        The target; `.storage` holds `model/`, `.evaluation` the results on the held-out sets.
    """
    from s2l_ray.execution.session import ray_session
    from s2l_ray.stages.context import RunContext
    from s2l_ray.stages.corpus.stage import check_stratum
    from s2l_ray.stages.layout import lay_out
    from s2l_ray.workflow.stages import subset_stage, target_stage

    if subset is not None and (budget is not None or selector is not None):
        raise ConfigError(
            f"subset={subset!r} already names what to fine-tune on, but budget={budget!r}, selector={selector!r} are "
            "given too; give one or the other"
        )
    _refuse_selecting(overrides)
    subset = None if subset is None else canonical(subset)
    opened = open_run(run)
    # The target's configuration is the same for every subset.
    preflight(without_evaluation(_finetuning(opened.config, overrides, budget, selector)), opened.storage)
    metrics = RayMetrics(opened.config.name)
    with open_runner(opened, progress or Progress(), metrics, _WAIT_FOR_OTHERS_S) as runner:
        find_selection(opened, reread=isinstance(run, str))
        stratify: bool | str | None = None
        if subset is not None and subset != FULL and not opened.has_subset(subset):
            selector, budget, stratify = _named(opened, subset)
            subset = None
        config = _finetuning(opened.config, overrides, budget, selector, stratify)
        if subset is None:
            check_stratum(config, opened.stage("corpus"))  # before Ray is started
        opened.config = config  # the target's sections come from this command, the others from the run
        with ray_session(config.resources):
            layout = lay_out(without_evaluation(config), runner.progress.say, with_kmeans=False, storage=opened.storage)
            if subset is None:
                [(subset, size)] = config.subset_budgets().items()
                subset_stage(config, opened, runner, config.selection.selectors[0], size)
            stage = target_stage(RunContext(config, runner, layout), subset)
            return Target.evaluated(stage, opened.heldout_evaluation(stage))


def open_run(run: Run | str) -> Run:
    """Open a run with its configuration only; its artifacts are found once the lock is held."""
    if isinstance(run, Run):
        return run
    storage = Storage.open(run)
    return Run(read_config(storage), storage)


def find_selection(opened: Run, reread: bool) -> None:
    """Find the run's artifacts, including those that others have built by now; the caller holds its lock.

    Args:
        reread: use the stored configuration instead of the one that the caller has.

    Raises:
        RunError: the selection is not complete.
    """
    if reread:
        opened.config = read_config(opened.storage)
    opened.find_stages()
    for name in STAGES:
        opened.stage(name)
    if reread:
        opened.note_chain()


def _selecting(
    config: S2LConfig,
    budget: int | float,
    selector: str,
    seed: int | None = None,
    stratify: bool | str | None = None,
    overrides: Sequence[str] = (),
) -> S2LConfig:
    """The run's configuration with this one subset, validated again, so that an invalid budget is refused as in a
    file."""
    tree = config.model_dump(mode="json")
    if tree["target"] is None:
        del tree["target"]  # so that an override can add the section
    else:
        tree["target"]["subsets"] = []  # their names refer to the run's own selection
    changes = {"budgets": [budget], "seed": seed, "stratify": stratify}
    tree["selection"] = for_selector(tree["selection"], selector)  # drop settings of the run's own selectors
    tree["selection"] |= {name: value for name, value in changes.items() if value is not None}
    return load_config(tree, overrides)


def _finetuning(
    config: S2LConfig,
    overrides: Sequence[str],
    budget: int | float | None,
    selector: str | None,
    stratify: bool | str | None = None,
) -> S2LConfig:
    asked = config.selection
    budget = asked.budgets[0] if budget is None else budget
    selector = asked.selectors[0] if selector is None else selector
    made = _selecting(config, budget, selector, stratify=stratify, overrides=overrides)
    if made.target is None:
        raise ConfigError("there is no target: add target.model=… (a hub id or folder), or a section `target`")
    return made


def stratify_of(config: S2LConfig, name: SubsetName) -> bool | str:
    """The value of `selection.stratify` for a subset with this name; if it is a column, only the configuration knows
    which."""
    return (config.selection.stratify or True) if name.stratified else False


def _named(opened: Run, subset: str) -> tuple[str, int | float, bool | str]:
    """Selector, budget and stratify of a subset that does not exist yet.

    Raises:
        ConfigError: its name does not specify them.
    """
    name = parse_subset_name(subset)
    if name is None:
        known = ", ".join(opened.subsets) or "none"
        raise ConfigError(
            f"{shown(subset)} is neither a subset of this run (available: {known}) nor a selector with a budget, from "
            "which one could be selected; write for example random-0.3"
        )
    return name.selector, name.budget, stratify_of(opened.config, name)


def _refuse_other_sections(overrides: Sequence[str]) -> None:
    """Raises ConfigError for overrides that `select` would ignore."""
    options = {"budgets": "--budget", "selectors": "--selector", "seed": "--seed"}
    for override in overrides:
        section, _, field = override.partition("=")[0].strip().partition(".")
        if section != "selection" or field in options:
            cure = f"use {options[field]}" if section == "selection" else "for other settings use `s2l run`"
            raise ConfigError(f"{override!r}: `s2l select` changes only settings of the section `selection`; {cure}")


def _refuse_selecting(overrides: Sequence[str]) -> None:
    """Raises ConfigError for overrides that `finetune` would ignore."""
    for override in overrides:
        path = override.partition("=")[0].strip()
        if path.split(".")[0] not in _FINETUNE_SECTIONS and not path.startswith("heldout.files"):
            raise ConfigError(
                f"{override!r}: the selection is complete, so `s2l finetune` changes only "
                f"{', '.join(_FINETUNE_SECTIONS)} and heldout.files; for other settings use `s2l run`"
            )
        if path == "target.subsets":
            raise ConfigError(
                f"{override!r}: `s2l finetune` trains one target, so this would do nothing; name it with --subset or "
                "--full, or train several with `s2l run`"
            )
