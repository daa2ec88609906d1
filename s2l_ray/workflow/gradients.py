"""`s2l gradients`: are gradients similar within clusters, and how close is each subset's mean to the corpus's?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.runner import check_run_writable, open_runner
from s2l_ray.artifacts.stage import Stage
from s2l_ray.config.load import ConfigError, load_config
from s2l_ray.config.schema import S2LConfig
from s2l_ray.execution.ray_metrics import RayMetrics
from s2l_ray.observability.progress import Progress
from s2l_ray.text.display import aligned
from s2l_ray.workflow.commands import find_selection, open_run
from s2l_ray.workflow.preflight import without_evaluation

_SECTIONS = ("gradients", "resources", "estimates")
_WAIT_FOR_OTHERS_S = 600.0


def compare_gradients(run: Run | str, overrides: Sequence[str] = (), *, progress: Progress | None = None) -> Stage:
    """Run the gradient check of a finished selection with all of its subsets; completed work is skipped.

    Raises:
        ConfigError: an override belongs to a section that the check does not use.
        RunError: the selection is not complete, or requested weights do not exist.
    """
    from s2l_ray.execution.session import ray_session
    from s2l_ray.stages.context import RunContext
    from s2l_ray.stages.gradients.stage import weights_of
    from s2l_ray.stages.layout import lay_out
    from s2l_ray.workflow.stages import gradient_stages

    opened = open_run(run)
    _checking(opened.config, overrides)  # refused before the lock is waited for
    with open_runner(opened, progress or Progress(), RayMetrics(opened.config.name), _WAIT_FOR_OTHERS_S) as runner:
        find_selection(opened, reread=isinstance(run, str))
        config = _checking(opened.config, overrides)
        weights_of(config, opened.stage("proxy"))  # refused before Ray is started
        with ray_session(config.resources):
            layout = lay_out(config, runner.progress.say, with_kmeans=False, storage=opened.storage, roles=("proxy",))
            return gradient_stages(RunContext(config, runner, layout))


def dry_run_lines(run: Run | str, overrides: Sequence[str] = ()) -> list[str]:
    """Describe in lines of text what `compare_gradients` would do and cost; starts nothing.

    Raises:
        ConfigError, RunError: the check would be refused.
    """
    from s2l_ray.artifacts.run import load_run
    from s2l_ray.stages.gradients.check import read_sample
    from s2l_ray.stages.gradients.stage import cost_lines, seed_of, settings_of, weights_of

    opened = load_run(run) if isinstance(run, str) else run
    check_run_writable(opened.storage)
    config = _checking(opened.config, overrides)
    snapshots, notes = weights_of(config, opened.stage("proxy"))
    clusters = opened.stage("clusters")
    ids, _ = read_sample(clusters.storage, settings_of(config).num_examples, seed_of(config))
    sample, time, disk = cost_lines(config, opened, snapshots, len(ids))
    lines = [f"gradients     {sample}", f"time          {time}", f"disk          {disk}"]
    lines.append(f"compares      {', '.join(opened.subsets) or 'no subsets, because the run has none'}")
    lines += [f"note          {note}" for note in notes]
    if "gradient-check" in opened.stages:
        lines.append("complete      a check (skipped if its settings and the subsets have not changed)")
    return [*lines, "Dry run: nothing was started."]


def check_lines(report: Mapping[str, Any]) -> list[str]:
    """The most important numbers of gradients.json, as two tables."""
    similar = [["snapshot", "groups", "within", "across", "difference", "permuted", "explained", "permuted"]]
    errors = [["snapshot", "subset", "error", "weighted", "random", "ratio", "weighted ratio"]]
    for one in report["snapshots"]:
        for kind, found in one["similarity"].items():
            apart, null = found["difference"], found["null_difference"]
            similar.append([
                one["name"], f"{found['num_labels']:,} {kind}", _number(found["within"]), _number(found["across"]),
                "-" if apart is None else f"{apart['value']:.3f} +- {apart['high'] - apart['value']:.3f}",
                "-" if null is None else f"+- {max(map(abs, null)):.3f}",
                _value(found["explained"]), _number(found["null_explained"]),
            ])  # fmt: skip
        for subset, found in one["errors"].items():
            values = [_value(found[name]) for name in ("rms", "weighted_rms", "random_rms")]
            ratios = [_range(found[name]) for name in ("rms_by_random", "weighted_by_random")]
            errors.append([one["name"], subset, *values, *ratios])
    lines = ["mean cosine of two gradients, and the share of variance between groups", *aligned(similar)]
    if len(errors) > 1:
        lines += ["", "error of a subset's mean gradient, and 95 % interval of its ratio to random's", *aligned(errors)]
    notes = {f"{name}: {of['note']}" for one in report["snapshots"] for name, of in one["errors"].items() if of["note"]}
    return lines + [f"note: {note}" for note in [*report["notes"], *sorted(notes)]]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _value(found: Mapping[str, float] | None) -> str:
    return _number(None if found is None else found["value"])


def _range(found: Mapping[str, float] | None) -> str:
    return "-" if found is None else f"{found['low']:.2f} - {found['high']:.2f}"


def _checking(config: S2LConfig, overrides: Sequence[str]) -> S2LConfig:
    """The run's configuration with these overrides.

    Raises:
        ConfigError: an override belongs to a section that the check does not use.
    """
    for override in overrides:
        if override.partition("=")[0].strip().split(".")[0] not in _SECTIONS:
            raise ConfigError(
                f"{override!r}: `s2l gradients` trains and selects nothing, so it changes only {', '.join(_SECTIONS)}; "
                "for the rest use `s2l run`"
            )
    tree = config.model_dump(mode="json")
    for section in ("target", "evaluation", "gradients"):
        if tree[section] is None:
            del tree[section]  # so that an override can add it
    return without_evaluation(load_config(tree, overrides)).model_copy(update={"target": None})
