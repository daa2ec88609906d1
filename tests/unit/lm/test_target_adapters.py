"""Adapters of a target, without Ray: merged or beside their base, which is frozen, and across a death."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from s2l_ray.stages.heldout_scores import AFTER
from s2l_ray.stages.target.loop import fine_tune
from s2l_ray.testing.local_worker import LocalWorkerContext
from tests.support.target_world import (
    World,
    exported,
    interrupted,
    job_of,
    macro_by_hand,
    macro_scored,
    weights,
    without_time,
)


@pytest.fixture(scope="module")
def adapted(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Adapters on a pretrained model, exported in both ways."""
    runs = {}
    for kind in ("merged", "adapter"):
        out = tmp_path_factory.mktemp(kind)
        job = job_of(world, out, 20, model=str(world.base), lora={"rank": 4, "alpha": 16, "export": kind})
        runs[kind] = out, fine_tune(job, LocalWorkerContext(out / "checkpoints"))
    return runs


def logits(model: Any, world: World) -> torch.Tensor:
    ids = torch.tensor([world.heldout.read_table("other.parquet")["input_ids"].to_pylist()[0]])
    with torch.no_grad():
        return model(input_ids=ids).logits


@pytest.mark.thorough
def test_merged_and_adapter_exports_are_the_same_model(world: World, adapted):
    from peft import AutoPeftModelForCausalLM, PeftModel
    from transformers import AutoModelForCausalLM

    merged, adapter = adapted["merged"][0], adapted["adapter"][0]
    base = AutoModelForCausalLM.from_pretrained(world.base).eval()
    before = logits(base, world)
    on_base = logits(PeftModel.from_pretrained(base, adapter / "model").eval(), world)
    by_name = logits(AutoPeftModelForCausalLM.from_pretrained(adapter / "model").eval(), world)
    torch.testing.assert_close(logits(exported(merged), world), on_base, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(by_name, on_base)
    assert (on_base - before).abs().max() > 0.1, "the adapters must do something for this to say anything"
    for out, summary in adapted.values():
        assert summary["num_trained_parameters"] < summary["num_parameters"] / 2
        assert not [p for p in (out / "model").rglob("*") if p.suffix in (".bin", ".pt", ".pth", ".pkl")]
    assert macro_by_hand(world, exported(merged)) == pytest.approx(macro_scored(adapted["merged"][1], AFTER), abs=1e-4)
    # Merging rounds; the adapters on their base are scored as they are.
    assert macro_scored(adapted["adapter"][1], AFTER) == pytest.approx(
        macro_scored(adapted["merged"][1], AFTER), abs=1e-4
    )
    assert not (adapter / "model" / "model.safetensors").exists()
    assert set(weights(merged)) == set(load_file(world.base / "model.safetensors"))


def test_the_base_under_adapters_is_frozen(world: World, adapted):
    """What no adapter touches is what it was; checkpoints hold the adapters alone."""
    merged, before = weights(adapted["merged"][0]), load_file(world.base / "model.safetensors")
    changed = {name for name, tensor in merged.items() if not torch.equal(tensor, before[name])}
    assert changed == {n for n in before if "proj" in n}
    newest = max((adapted["merged"][0] / "checkpoints").iterdir())
    saved = [name for path in newest.glob("*.safetensors") for name in load_file(path)]
    assert saved
    assert all("lora_" in name for name in saved)
    assert not list(newest.glob("*.pt"))


@pytest.mark.thorough
def test_adapters_survive_a_death(world: World, adapted, tmp_path: Path):
    out, summary = adapted["merged"]
    job = job_of(world, tmp_path, 20, model=str(world.base), lora={"rank": 4, "alpha": 16})
    ours, _ = interrupted(job, tmp_path / "checkpoints", ("train", 15))
    assert without_time(ours) == without_time(summary)
    assert all(torch.equal(tensor, weights(out)[name]) for name, tensor in weights(tmp_path).items())
