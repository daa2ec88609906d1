"""Metrics: one table that everything reads, what may be registered there, and what a sweep makes of one's own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from s2l_ray.config import ConfigError, load_config
from s2l_ray.errors import UserError
from s2l_ray.evaluation import metrics
from s2l_ray.evaluation.metrics import (
    RESERVED,
    Metric,
    MetricError,
    SetResult,
    built_in_metrics,
    get_metric,
    list_metrics,
    register_metric,
    registered_metrics,
    scored_examples,
    summarise,
)
from s2l_ray.reporting.evaluations import HeldOutSet, Key
from s2l_ray.reporting.intervals import NUM_RESAMPLES
from s2l_ray.reporting.numbers import metric_title
from s2l_ray.reporting.sweeps import sweep_metric
from s2l_ray.storage.folder import Storage
from s2l_ray.sweeps.context import SweepContext, Upstream
from s2l_ray.sweeps.results import Point, result_schema, shortfall
from s2l_ray.sweeps.text import _judged_by
from s2l_ray.sweeps.trials import Trial
from s2l_ray.sweeps.tune import _whole_way, mode_of
from s2l_ray.testing.tiny import tiny_run_config

SCORED = scored_examples(
    np.array([1.0, 2.0, 3.0, 10.0]), np.array([1, 1, 2, 4]), np.array([True, False, True, True]), np.array(list("bbba"))
)
LONGEST = Metric("longest", "longest response", "tokens", True, compute=lambda scored: scored.counts.max())


@pytest.fixture(autouse=True)
def own_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    table = dict(metrics._metrics())
    monkeypatch.setattr(metrics, "_metrics", lambda: table)


def config(metric: str) -> Any:
    return load_config({"corpus": {"quickstart": {}}, "proxy": {"model": "m"}, "sweep": {"metric": metric}})


def test_a_metric_of_ones_own_is_computed_with_the_others_and_is_a_column():
    every = register_metric(Metric("hits", "hits", "examples", True, lambda s: s.losses < 3, is_share=True))
    register_metric(LONGEST)
    assert registered_metrics() == (every, LONGEST)
    result = summarise(SCORED, list_metrics())
    assert (result["longest"], result["hits"], result["macro"]) == (4.0, 0.5, 6.0)
    assert result.per_source["b"] == {"num_examples": 3, "loss": 2.0, "exact_match": pytest.approx(2 / 3),
                                      "hits": pytest.approx(2 / 3)}  # fmt: skip
    assert SetResult.of(result.plain()) == result
    assert {"hits", "longest", "loss", "macro"} <= set(result_schema().names)


def test_no_metric_can_take_another_columns_place():
    fixed = set(result_schema().names) - {metric.column for metric in list_metrics()}
    assert fixed <= RESERVED
    assert {"num_examples", "per_source"} <= RESERVED


def test_everything_of_a_sweep_follows_the_metric_that_decides():
    assert [mode_of(config(name)) for name in ("macro", "micro", "per_token", "exact_match")] == ["min"] * 3 + ["max"]
    with pytest.raises(ConfigError, match=r"unknown metric 'longest'; known: macro, micro, per_token, exact_match; .*"
                                          r"registered in this process"):  # fmt: skip
        config("longest")
    register_metric(LONGEST)
    assert mode_of(config("longest")) == "max"
    full, other = Point("full", 1.0, 1.0, (4.0,), 1.0), Point("s2l", 0.1, 0.1, (3.0,), 1.0)
    assert shortfall(other, full, "longest") == 0.25
    assert _judged_by("longest") == "longest response (longest; tokens, higher is better)"
    assert _judged_by("macro") == "held-out loss, mean over sources (macro; nats/token, lower is better)"
    assert metric_title(sweep_metric({"metric": "longest"})) == "longest response (tokens; higher is better)"
    assert metric_title(sweep_metric({"metric": "exact_match"})) == "exact matches (% of examples; higher is better)"


def test_a_misspelt_metric_is_refused_with_the_one_meant():
    with pytest.raises(
        ConfigError, match=r"sweep\.metric.*unknown metric 'exact_mach'; .*did you mean 'exact_match'\?"
    ):
        config("exact_mach")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "macro"}, "a metric or column 'macro' already"),
        ({"name": "loss"}, "a metric or column 'loss' already exists"),
        ({"column": "exact_match"}, "a metric or column 'longest' already exists"),
        ({"name": "seed"}, "'seed' is not a valid name for a metric, which becomes a column"),
        ({"name": "Longest One"}, "'Longest One' is not a valid name for a metric"),
        ({"column": "source"}, "'source' is not a valid name for a metric"),
        ({"compute": None}, "the metric longest needs exactly one of"),
        ({"of_example": lambda scored: scored.losses}, "the metric longest needs exactly one of"),
    ],
)
def test_what_cannot_be_a_metric_is_refused(changes: dict[str, Any], message: str):
    fields = {"column": "", **changes}
    with pytest.raises(MetricError, match=message):
        register_metric(replace(LONGEST, **fields))
    assert not registered_metrics()


def test_what_is_no_metric_at_all_is_refused_and_one_may_be_registered_again():
    with pytest.raises(MetricError, match=r"is not a metric; give a s2l_ray\.evaluation\.metrics\.Metric"):
        register_metric(max)  # type: ignore[arg-type]
    register_metric(LONGEST)
    again = register_metric(replace(LONGEST, label="another"))
    assert get_metric("longest") is again


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (lambda scored: np.nan, "the metric longest of 4 examples is nan"),
        (lambda scored: np.inf, "the metric longest of 4 examples is inf"),
        (lambda scored: scored.lengths, "the metric longest cannot be computed: AttributeError"),
        (lambda scored: scored.losses, "the metric longest cannot be computed: TypeError"),
    ],
)
def test_a_metric_that_fails_is_named(compute: Any, message: str):
    with pytest.raises(MetricError, match=message):
        replace(LONGEST, compute=compute).of(SCORED)


def test_trials_know_what_was_registered_where_their_sweep_was_started(tmp_path, monkeypatch):
    register_metric(LONGEST)
    tree = tiny_run_config(tmp_path / "run")
    base = load_config(tree | {"target": tree["proxy"]})
    shared = SweepContext(
        base, Storage.open(tmp_path / "run"), {}, True, "target", Upstream(""), metrics=registered_metrics()
    )
    table = {metric.name: metric for metric in built_in_metrics()}  # of another process
    monkeypatch.setattr(metrics, "_metrics", lambda: table)
    with pytest.raises(UserError, match="no_such"):
        _whole_way(Trial("no_such", 0.1, 0), shared)
    assert get_metric("longest") == LONGEST


# --- intervals -------------------------------------------------------------------------------------------------------


def chats(seed: int = 0) -> HeldOutSet:
    """400 examples of two sources, one to three sequences each, by two models."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 4, 400)
    starts = np.cumsum(counts) - counts
    sources = np.repeat(rng.choice(["a", "b"], 400, p=[0.8, 0.2]), counts)
    made = HeldOutSet("test", np.zeros((400, 2), np.uint64), starts, counts, list(sources[starts]))
    for number in (0, 1):
        losses = rng.gamma(2, 1, len(sources)) + (sources == "b") + number
        tokens = rng.integers(1, 30, len(sources))
        made.scored[Key("m", number)] = scored_examples(losses, tokens, losses < 1, sources)
    return made


def test_an_examples_sequences_stay_together_when_examples_are_drawn():
    made, rows = chats(), np.array([3, 0, 3, 399])
    expected = [made.starts[row] + i for row in rows for i in range(made.counts[row])]
    assert made.sequences(rows).tolist() == expected


def test_any_metric_has_the_intervals_of_the_bootstrap_paired_by_example():
    """What is computed anew for every resample is what sums of examples give, where a metric is both."""
    made, keys = chats(), [Key("m", 0), Key("m", 1)]
    slow = replace(get_metric("macro"), name="slow", of_example=None,
                   compute=lambda scored: metrics.means_of_sources(scored, scored.losses).mean())  # fmt: skip
    fast, anew = (made.resampled(metric, keys) for metric in (get_metric("macro"), slow))
    assert fast.shape == anew.shape == (NUM_RESAMPLES, 2)
    np.testing.assert_allclose(made.values(slow, keys), made.values(get_metric("macro"), keys))
    np.testing.assert_allclose(anew.mean(axis=0), fast.mean(axis=0), atol=0.02)
    np.testing.assert_allclose(anew.std(axis=0), fast.std(axis=0), rtol=0.2)
    twin = replace(made, scored={key: made.scored[keys[0]] for key in keys})
    for metric in (slow, get_metric("micro"), get_metric("macro"), get_metric("per_token")):
        drawn = twin.resampled(metric, keys)
        assert (drawn[:, 0] == drawn[:, 1]).all(), "two models were judged on different examples"
