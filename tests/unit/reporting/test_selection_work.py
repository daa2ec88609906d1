"""What choosing took: each selector is charged with the models and passes that it reads, the target's too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from s2l_ray.artifacts.manifest import StageManifest
from s2l_ray.artifacts.models import TokensArtifact
from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.selection_work import Work, whole_work
from s2l_ray.artifacts.stage import Stage
from s2l_ray.config import load_config
from s2l_ray.lm.flops import ModelShape
from s2l_ray.reporting.costs import cost_of, selecting_for
from s2l_ray.reporting.facts_worth import SCORING, TRAINING, ModelFacts, Worth
from s2l_ray.reporting.summary import _selection_lines
from s2l_ray.storage.folder import Storage
from s2l_ray.sweeps.results import selection_cost

SMALL, LARGE = ModelShape(1_000, 500, 2, 8), ModelShape(50_000, 900, 4, 32)
TOKENS, RESPONSES, SQUARES = 4_000, 1_000, 60_000
FULL_FLOPS, SUBSET_FLOPS = 9e9, 2e9


def run_of(folder: Path, trained: str = "target-content") -> Run:
    """Selectors of all kinds, two of which ask the target; `trained`: content of the target that is there."""
    storage = Storage.open(folder)
    stages: dict[str, Stage] = {}

    def add(name: str, inputs: dict[str, str], extra: dict[str, Any], content: str = "") -> None:
        manifest = StageManifest(stage=name, key="k", inputs=inputs, extra=extra, device_seconds=10.0,
                                 content_fingerprint=content or f"{name}-content", wall_seconds=5.0)  # fmt: skip
        stages[name] = Stage(name, name, storage, manifest)

    tokens = TokensArtifact(
        parts=[], num_examples=9, num_sequences=9, num_quarantined=0, num_tokens=TOKENS,
        num_response_tokens=RESPONSES, sum_squared_lengths=SQUARES, max_length=90, style="plain",
    ).model_dump()  # fmt: skip
    add("tokens", {}, tokens)
    summary = {"train_tokens": 8_000, "shape": vars(SMALL), "num_parameters": 1_500}
    snapshots = [{"snapshot": n, "step": n} for n in range(3)]
    add("proxy", {}, {"flops": {"training": 7e7, "scoring": 3e7}, "snapshots": snapshots, "summary": summary})
    add("trajectories", {}, {"parts": [], "num_snapshots": 3})
    add("clusters", {}, {})
    add("target-tokens/full", {}, tokens)
    tally = {"tokens": 70_000}
    for name, flops, content in (("full", FULL_FLOPS, trained), ("ifd-0.2", SUBSET_FLOPS, "")):
        extra = {"subset": name, "memory": {}, "summary": {"flops": flops, "tally": tally, "shape": vars(LARGE)}}
        add(f"target/{name}", {}, extra, content)
    of_proxy = {"tokens": "tokens-content", "proxy": "proxy-content"}
    of_target = {"tokens": "target-tokens/full-content", "target": "target-content"}
    passes = {"signals/embedding@2": of_proxy, "signals/target-1-scores@9": of_target,
              "signals/target-1-loss_unconditional@9": of_target}  # fmt: skip
    for name, inputs in passes.items():
        column = name.rpartition("/")[2].removeprefix("target-1-").partition("@")[0]
        add(name, inputs, {"parts": [], "column": column, "step": 2})
    for name, inputs in (("signals/query-1-embedding@2", {"query": "x"}), ("signals/heldout-scores@2", {"split": "x"})):
        add(name, of_proxy | inputs, {"parts": [], "column": "embedding", "step": 2})
    reads = {
        "s2l": ["clusters"], "facility_location": ["signals/embedding@2"], "random": [],
        "ifd": [name for name in passes if "target" in name],
    }  # fmt: skip
    for selector, names in reads.items():
        inputs = dict.fromkeys(["corpus", "trajectories", *names], "x")
        add(f"subset/{selector}-0.2", inputs, {"selector": selector, "files": [], "per_source": {}, "budget": 0.2})
    config = load_config(
        {
            "corpus": {"paths": ["x"]}, "proxy": {"model": "m"}, "target": {"model": "m"},
            "selection": {"budgets": [0.2], "selectors": list(reads), "reference": {"model": "target"}},
        }
    )  # fmt: skip
    return Run(config, storage, stages)


EMBEDDING = SMALL.forward_flops(TOKENS, 0, SQUARES)
SCORES = LARGE.forward_flops(TOKENS, RESPONSES, SQUARES)
UNCONDITIONAL = LARGE.forward_flops(RESPONSES, RESPONSES, SQUARES // 16)


@pytest.mark.parametrize(
    ("selector", "training", "scoring"),
    [
        ("s2l", Work(8_000, 7e7), Work(3 * TOKENS, 3e7)),
        ("facility_location", Work(8_000, 7e7), Work(TOKENS, EMBEDDING)),
        ("ifd", Work(70_000, FULL_FLOPS), Work(TOKENS + RESPONSES, SCORES + UNCONDITIONAL)),
        ("random", Work(), Work()),
        ("full", Work(), Work()),
    ],
)
def test_each_selector_is_charged_with_what_it_reads(
    tmp_path: Path, selector: str, training: Work, scoring: Work
) -> None:
    found = selecting_for(run_of(tmp_path), f"{selector}-0.2", selector)
    assert (found.training, found.scoring) == (training, scoring)


def test_the_page_the_end_and_a_sweeps_report_count_the_target_that_scores(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    expected = 7e7 + 3e7 + FULL_FLOPS + EMBEDDING + SCORES + UNCONDITIONAL
    took = {"full": FULL_FLOPS, "ifd-0.2": SUBSET_FLOPS, "s2l-0.2": SUBSET_FLOPS}
    models = [ModelFacts(label, label.partition("-")[0], 9, 0.2, 1, 1, 1, flops, 1.0) for label, flops in took.items()]
    cost = cost_of(run, Worth([], [], models, [], [], [], 1))
    assert cost is not None
    assert cost.selection_flops == expected
    assert cost.by_target
    parts = {(part.selector, part.part): part.flops for part in cost.parts}
    assert parts == {
        ("full", "target"): FULL_FLOPS,
        ("ifd-0.2", TRAINING): FULL_FLOPS, ("ifd-0.2", SCORING): SCORES + UNCONDITIONAL,
        ("ifd-0.2", "target"): SUBSET_FLOPS,
        ("s2l-0.2", TRAINING): 7e7, ("s2l-0.2", SCORING): 3e7, ("s2l-0.2", "target"): SUBSET_FLOPS,
    }  # fmt: skip
    saved = FULL_FLOPS - SUBSET_FLOPS
    assert cost.break_even == {
        "ifd-0.2": (FULL_FLOPS + SCORES + UNCONDITIONAL) / saved, "s2l-0.2": pytest.approx(1e8 / saved)
    }  # fmt: skip
    assert cost.proxy_flops == 1e8
    [line] = _selection_lines(run)
    assert line.endswith("once for all targets, including the target that scores.")
    assert selection_cost(run).flops == expected
    assert selection_cost(run).device_seconds == 10.0 * 10, "four stages, five columns, and the target"


def test_another_target_than_the_one_that_scored_is_no_cost_of_selecting(tmp_path: Path) -> None:
    """Trained later with other settings: what the first one took is not known any more."""
    run = run_of(tmp_path, trained="another")
    assert whole_work(run).flops == 7e7 + 3e7 + EMBEDDING
    [line] = _selection_lines(run)
    assert line.endswith("once for all targets.")
