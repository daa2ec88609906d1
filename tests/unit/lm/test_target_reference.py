"""The target as the reference of a selection: weights kept on the way, scores by them, what it costs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from s2l_ray.artifacts.points import Point
from s2l_ray.artifacts.snapshots import target_weights_folder
from s2l_ray.config import load_config
from s2l_ray.config.schema import S2LConfig
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.example_id import array_to_ids
from s2l_ray.data.token_parts import read_parts
from s2l_ray.errors import UserError
from s2l_ray.selection.signals import LOSS, SCALARS
from s2l_ray.stages import reference
from s2l_ray.stages.proxy.stage import _kept
from s2l_ray.stages.signals.loop import SignalsJob, run_pass
from s2l_ray.stages.subset.inputs import TargetColumn
from s2l_ray.stages.target.loop import fine_tune
from s2l_ray.storage.folder import Storage
from s2l_ray.testing.local_worker import Died, LocalWorkerContext
from s2l_ray.testing.tiny import SHAPES, write_jsonl
from s2l_ray.workflow.dry_run import dry_run
from tests.support.scoring import ScoringWorker
from tests.support.target_world import (
    PARTS,
    World,
    exported,
    job_of,
    macro_by_hand,
    macro_losses,
)


@pytest.mark.thorough
def test_early_weights_are_kept_whatever_happens_on_the_way(world: World, tmp_path: Path) -> None:
    kept = {}
    for name, dies in (("whole", None), ("died", ("train", 8))):
        out = tmp_path / name
        job = dataclasses.replace(job_of(world, out, 15, checkpoint_every_steps=4, patience=99), kept=(5,))
        if dies:
            with pytest.raises(Died):
                fine_tune(job, LocalWorkerContext(out / "checkpoints", dies_after=dies))
        summary = fine_tune(job, LocalWorkerContext(out / "checkpoints"))
        folder = target_weights_folder(5)
        assert f"{folder}/model.safetensors" in {file["name"] for file in summary["written"]}
        kept[name] = load_file(out / folder / "model.safetensors")
        early = exported(out / folder.removesuffix("/model"))
        assert macro_by_hand(world, early) == pytest.approx(macro_losses(out)[5], abs=1e-4)
        assert macro_by_hand(world, exported(out)) == pytest.approx(macro_losses(out)[15], abs=1e-4)
    assert all(torch.equal(kept["whole"][name], kept["died"][name]) for name in kept["whole"])


def scores(world: World, job: Any, out: Path, folder: str, into: Path, column: str = "scores") -> pa.Table:
    rows = tuple((part, len(read_parts(world.tokens, [part]))) for part in range(PARTS))
    files = tuple(f"{folder}/{entry.name}" for entry in Storage.open(out).list(folder)) if folder else ()
    files = tuple(f"{folder}/{name.rsplit('/', 1)[1]}" for name in files)
    wanted = SignalsJob(
        column, job.target.model_copy(update={"precision": "fp32"}), 512, rows, job.seed, world.tokenizer,
        Storage.open(out), files, None, world.tokens, Storage.open(into).recording(),
    )  # fmt: skip
    done = run_pass(wanted, ScoringWorker())
    assert [part for part, _, _ in done["parts"]] == list(range(PARTS))
    return pa.concat_tables([Storage.open(into).read_table(part_name(part)) for part in range(PARTS)])


@pytest.mark.thorough
def test_a_targets_scores_are_those_of_its_weights(world: World, tmp_path: Path) -> None:
    out = tmp_path / "target"
    job = dataclasses.replace(job_of(world, out, 10), kept=(5,))
    fine_tune(job, LocalWorkerContext(out / "checkpoints"))
    found = {}
    for name, folder in (("late", "model"), ("early", target_weights_folder(5)), ("start", "")):
        table = scores(world, job, out, folder, tmp_path / name)
        assert table.column_names == ["example_id", LOSS, *SCALARS]
        found[name] = table[LOSS].to_numpy()
    model = exported(out)
    for row in (0, len(found["late"]) - 1):
        tokens = world.tokens.read_table(part_name(0 if row == 0 else PARTS - 1))
        example = tokens.to_pylist()[0 if row == 0 else -1]
        ids = torch.tensor([example["input_ids"]])
        labels = torch.where(torch.tensor([example["response_mask"]]), ids, -100)
        with torch.no_grad():
            expected = model(input_ids=ids, labels=labels).loss.item()
        assert found["late"][row] == pytest.approx(expected, abs=1e-4)
    assert found["late"].mean() < found["early"].mean() < found["start"].mean()


@pytest.mark.thorough
def test_adapters_are_scored_with_the_model_that_they_belong_to(world: World, tmp_path: Path) -> None:
    losses = {}
    for export in ("merged", "adapter"):
        out = tmp_path / export
        job = job_of(world, out, 10, model=str(world.base), lora={"rank": 4, "export": export})
        fine_tune(job, LocalWorkerContext(out / "checkpoints"))
        losses[export] = scores(world, job, out, "model", tmp_path / f"scores-{export}")[LOSS].to_numpy()
    np.testing.assert_allclose(losses["merged"], losses["adapter"], atol=1e-4)


def config_of(tmp_path: Path, **selection: Any) -> S2LConfig:
    rows = [{"instruction": f"Add {i} and 1.", "output": str(i + 1)} for i in range(50)]
    model = {
        "from_config": SHAPES["llama"],
        "train_tokenizer": {"vocab_size": 300},
        "render": "plain",
        "max_length": 64,
        "global_batch_size": 5,
    }
    return load_config(
        {
            "run_dir": str(tmp_path / "run"), "corpus": {"paths": [str(write_jsonl(tmp_path / "corpus.jsonl", rows))]},
            "proxy": model, "target": model, "selection": {"selectors": ["ifd"], "budgets": [0.2], **selection},
        }
    )  # fmt: skip


def made(total: int, last: int) -> Any:
    extra = {"subset": "full", "summary": {"exported_step": last}, "memory": {}}
    manifest = SimpleNamespace(extra=extra, settings={"total_steps": total}, stage="target/full")
    return SimpleNamespace(manifest=manifest, content="abcdef0123456789")


def test_columns_of_the_target_are_known_by_its_content_and_step(tmp_path: Path) -> None:
    config = config_of(tmp_path, reference={"model": "target", "snapshot": "early"})
    assert reference.passes_of(config, ["ifd"]) == ["loss_unconditional@early", "scores@early"]
    assert reference.passes_of(config, ["s2l", "cartography_hard"]) == []
    run: Any = SimpleNamespace(stages={"target/full": made(95, 95)})
    names = {snapshot: reference.signal_stage_name(config, run, f"loss_nats@{snapshot}")
             for snapshot in ("start", "first", "early", "late")}  # fmt: skip
    assert names == {
        "start": "signals/target-abcdef01-scores@0", "first": "signals/target-abcdef01-scores@0",
        "early": "signals/target-abcdef01-scores@10", "late": "signals/target-abcdef01-scores@95",
    }  # fmt: skip
    assert reference.reference_steps(config, made(95, 7)) == [0, 7], "patience ended it before its early snapshot"
    assert reference.reference_step(config, made(95, 7), "early") == 7
    assert reference.signal_stage_name(config, SimpleNamespace(stages={}), "loss_nats@late") == ""  # type: ignore[arg-type]


def test_examples_that_the_target_cannot_score_are_named(tmp_path: Path) -> None:
    storage, rng = Storage.open(tmp_path), np.random.default_rng(0)
    ids = rng.integers(0, 2**63, (6, 2)).astype(np.uint64)
    shuffled = np.array([5, 0, 3, 1, 4])
    table = pa.table({"example_id": array_to_ids(ids[shuffled]), "el2n": shuffled.astype(np.float32)})
    storage.write_table(part_name(0), table)
    column = TargetColumn(storage, [(0, 4)], ids[[0, 1, 3, 4]], "el2n")  # the proxy has no 5
    assert column.read(0, 4).tolist() == [0, 1, 3, 4]
    lacking = TargetColumn(storage, [(0, 5)], ids[:5], "el2n")
    with pytest.raises(UserError, match=r"no score for 1 of 5 examples .*target\.max_length"):
        lacking.read(0, 5)
    with pytest.raises(UserError, match=r"no score for 6 of 6 examples"):
        TargetColumn(storage, [(7, 6)], ids, "el2n").read(0, 6)


def test_a_dry_run_says_what_scoring_with_the_target_costs(tmp_path: Path) -> None:
    plain, asked = (dry_run(config_of(tmp_path, **more)) for more in ({}, {"reference": {"model": "target"}}))
    assert plain.reference is None
    assert asked.reference is not None
    assert not asked.refusals, asked.refusals
    assert asked.seconds is not None
    assert plain.seconds is not None
    assert asked.seconds > plain.seconds
    assert asked.reference.flops > 4 * asked.targets[0].flops, "on everything, and two passes; a fifth was asked for"
    text = "\n".join(asked.lines())
    assert "reference     the target, fine-tuned on everything, scores the corpus" in text
    assert "this exceeds the saving: a target on ifd-0.2 takes" in text
    assert "loss_unconditional@late, scores@late from the target" in text
    assert asked.plain()["reference"]["flops"] == asked.reference.flops


def test_a_sweep_keeps_the_weights_of_every_snapshot_that_it_tries(tmp_path: Path) -> None:
    def asking(model: str, **parameters: Any) -> S2LConfig:
        made = config_of(tmp_path, reference={"model": model}).model_dump(mode="json")
        swept = {f"selection.{path.replace('__', '.')}": values for path, values in parameters.items()}
        made["sweep"] = {"selectors": ["ifd", "random"], "parameters": swept}
        return load_config(made)

    snapshots, shares = ["late", "early"], [0.1, 0.5]
    assert reference.early_steps(asking("target"), 100) == []
    assert reference.early_steps(asking("target", reference__snapshot=snapshots), 100) == [10]
    both = {"reference__snapshot": snapshots, "reference__early_share": shares}
    assert reference.early_steps(asking("target", **both), 100) == [10, 50]
    assert reference.early_steps(asking("proxy", **both), 100) == [], "the proxy keeps its own"
    models = {"reference__model": ["proxy", "target"], "reference__snapshot": snapshots}
    assert reference.early_steps(asking("proxy", **models), 100) == [10]

    points = tuple(Point(step) for step in (1, 20, 40, 60))
    assert _kept(asking("proxy"), points) == ()
    assert _kept(asking("proxy", reference__snapshot=snapshots), points) == (1,)
    assert _kept(asking("target", reference__snapshot=snapshots), points) == ()
