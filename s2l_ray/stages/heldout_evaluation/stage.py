"""Held-out evaluations: `target/…/model`, or the model before training → scores and metrics on the held-out sets.

This is a separate stage, so that adding or renaming a held-out set retrains nothing.
"""

from __future__ import annotations

from typing import Any

from s2l_ray.artifacts.models import HeldOutEvaluationArtifact, TargetArtifact
from s2l_ray.artifacts.stage import Stage, StageResult, StageSpec
from s2l_ray.evaluation.metrics import Metric, SetResult, built_in_metrics, get_metric, list_metrics
from s2l_ray.lm.identity import model_identity
from s2l_ray.stages.context import RunContext
from s2l_ray.stages.heldout_scores import AFTER, BEFORE, HeldOutScores, Scored
from s2l_ray.stages.tokenizer import tokenizer_fingerprint
from s2l_ray.storage.folder import Storage

KIND = "heldout_evaluation"
BASE = "base"
"""Label of the model before training, from which targets start."""

_MODEL_FIELDS = {"model", "revision", "gguf_file", "from_config", "random_weights"}


def base_evaluation_spec(
    context: RunContext, tokens: Stage, heldout: Stage, scores: HeldOutScores | None = None
) -> StageSpec:
    """Score the initial model, once for all targets that start from the same one.

    Args:
        tokens: a target's tokens, whose tokenizer is used.
        scores: source of the scores; None: only look for an existing evaluation.
    """
    target = context.config.target
    assert target is not None

    def build(out: Storage) -> StageResult:
        assert scores is not None
        return _result(scores.take(BEFORE, out), out, BASE, 0, {})

    places, inputs = model_identity(target)
    is_random = target.from_config is not None or target.random_weights
    settings = target.stored(include=_MODEL_FIELDS) | places | _precision(context)
    settings |= {"seed": context.config.seed_of("target") if is_random else None}
    inputs |= {"tokenizer": tokenizer_fingerprint(tokens), "heldout": heldout.content}
    return StageSpec(f"{KIND}/{BASE}", settings, inputs, build, folder=f"{KIND}/{BASE}", kind=KIND)


def heldout_evaluation_spec(
    context: RunContext, name: str, target: Stage, base: Stage, heldout: Stage, scores: HeldOutScores
) -> StageSpec:
    """Score the target trained on the subset called `name`, or on everything (`full`)."""

    def build(out: Storage) -> StageResult:
        step = int(TargetArtifact.of(target).summary["exported_step"])
        before = HeldOutEvaluationArtifact.of(base).results
        scored = scores.take(AFTER, out)
        result = _result(scored, out, name, step, before)
        _log(context, name, target, {0: before, step: _figures(scored, list_metrics())})
        return result

    inputs = {"target": target.content, "base": base.content, "heldout": heldout.content}
    return StageSpec(f"{KIND}/{name}", _precision(context), inputs, build, folder=f"{KIND}/{name}", kind=KIND)


def _precision(context: RunContext) -> dict[str, Any]:
    target = context.config.target
    assert target is not None
    return {"precision": context.layout.precision_of(target)}


def _result(scored: Scored, out: Storage, label: str, step: int, before: dict[str, Any]) -> StageResult:
    from s2l_ray.evaluation.heldout import SCORES, scores_fingerprint

    out.write_table(SCORES, scored.table, compression="zstd")
    results = _figures(scored, built_in_metrics())
    artifact = HeldOutEvaluationArtifact(model=label, step=step, results=results, before=before)
    return StageResult(
        scores_fingerprint(scored.table), {name: r["num_examples"] for name, r in results.items()}, artifact,
        device=scored.device, num_devices=scored.num_workers, peak_memory_bytes=scored.peak_memory_bytes,
        summary="; ".join(_line(name, result, before.get(name)) for name, result in results.items()),
    )  # fmt: skip


def _line(name: str, result: dict[str, Any], before: dict[str, Any] | None) -> str:
    """The result on one set as text: `split: loss 5.612 → 3.204, exact 12.5%`."""
    loss, exact = get_metric("micro"), get_metric("exact_match")
    was = f"{loss.format(before['micro'])} → " if before else ""
    return f"{name}: loss {was}{loss.format(result['micro'])}, exact {exact.format(result['exact_match'])}"


def _figures(scored: Scored, metrics: list[Metric]) -> dict[str, Any]:
    from s2l_ray.evaluation.heldout import results_of

    return {name: result.plain() for name, result in results_of(scored.table, metrics).items()}


def _log(context: RunContext, name: str, target: Stage, results_by_step: dict[int, dict[str, Any]]) -> None:
    """Log the results, including users' metrics, in the run's record and the curves of the target's training."""
    from s2l_ray.observability.loggers import Loggers

    config, run = context.config, context.run
    assert config.target is not None
    logged = f"target/{target.folder.rsplit('/', 1)[-1]}"
    with Loggers(config.loggers, run.storage, config.name, logged, config.target.stored()) as loggers:
        for step, results in results_by_step.items():
            if results:
                context.metrics.log(f"{KIND}/{name}", "evaluation", step=step, results=results)
                loggers.log(step, **heldout_figures(results))
        final = results_by_step[max(results_by_step)]
        loggers.summary(**{f"final/{s}/{k}": r[k] for s, r in final.items() for k in ("micro", "macro")})


def heldout_figures(results: dict[str, Any]) -> dict[str, float]:
    """The metrics under the names that experiment loggers use: `heldout/split/macro`."""
    return {
        f"heldout/{name}/{metric}": value
        for name, plain in results.items()
        for metric, value in SetResult.of(plain).figures.items()
    }
