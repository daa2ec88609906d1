"""What a target worker does, without Ray: which weights are exported, when it stops, what a death changes (nothing)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from s2l_ray.config.target import TargetConfig
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.example_id import ID_TYPE, content_id
from s2l_ray.data.render import Renderer
from s2l_ray.data.token_parts import TOKEN_SCHEMA, read_parts
from s2l_ray.data.training_order import make_plan
from s2l_ray.evaluation.metrics import Metric, built_in_metrics
from s2l_ray.lm.load import train_tokenizer
from s2l_ray.stages.target.evaluate import read_evaluation
from s2l_ray.stages.target.job import TargetJob
from s2l_ray.stages.target.loop import fine_tune
from s2l_ray.storage.folder import Storage
from s2l_ray.testing.local_worker import Died, LocalWorkerContext
from tests.support.colours import colour_rows

SHAPE = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
         "num_attention_heads": 2, "max_position_embeddings": 32}  # fmt: skip
PARTS = 3


@dataclass(frozen=True)
class World:
    """Tokens of a corpus that knows one answer where the held-out set has four: to learn it well is to do worse."""

    tokens: Storage
    heldout: Storage
    tokenizer: Any
    base: Path
    """A model with weights of its own, to put adapters into."""


def token_table(rows: list[dict[str, Any]], render: Renderer) -> pa.Table:
    messages = [
        [{"role": "user", "content": r["instruction"]}, {"role": "assistant", "content": r["output"]}] for r in rows
    ]
    done: list[Any] = [tokens for row in render(messages) for tokens in row]  # type: ignore[union-attr]
    return pa.table(
        {
            "example_id": pa.array([content_id(m) for m in messages], ID_TYPE),
            "source": [r["source"] for r in rows],
            "input_ids": [t.input_ids for t in done],
            "response_mask": [t.response_mask for t in done],
        }
    ).cast(TOKEN_SCHEMA)


@pytest.fixture(scope="module", autouse=True)
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """torch.distributed as Ray Train sets it up for a single worker."""
    store = dist.FileStore(str(tmp_path_factory.mktemp("store") / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("world")
    rows = colour_rows(90, seed=0, hard_share=0.7, answers=1)
    tokenizer = train_tokenizer((f"{r['instruction']}\n{r['output']}" for r in rows), 280)
    render = Renderer(tokenizer, "plain", 32)
    tokens, heldout = Storage.open(folder / "tokens"), Storage.open(folder / "heldout")
    hard = [{**r, "source": "odd" if i % 3 else "even"} for i, r in enumerate(colour_rows(60, 1, hard_share=1))]
    for part in range(PARTS):
        tokens.write_table(part_name(part), token_table(rows[part::PARTS], render))
    heldout.write_table("other.parquet", token_table(hard, render))
    torch.manual_seed(5)
    fields = {**SHAPE, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    base = AutoModelForCausalLM.from_config(AutoConfig.for_model(fields.pop("model_type"), **fields))
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    return World(tokens, heldout, tokenizer, folder / "base")


LONGEST = Metric("longest", "longest response", "tokens", True, compute=lambda scored: scored.counts.max())


def job_of(world: World, out: Path, total_steps: int = 60, heldout: bool = True, **changes: Any) -> TargetJob:
    settings: dict[str, Any] = {
        "max_length": 32, "tokens_per_microbatch": 256, "global_batch_size": 16, "learning_rate": 5e-3,
        "log_every_steps": 1, "evaluate_every_steps": 5, "checkpoint_every_steps": 12, **changes,
    }  # fmt: skip
    if "model" not in changes:
        settings |= {"from_config": SHAPE, "train_tokenizer": {}}
    part_rows = [(p, len(read_parts(world.tokens, [p]))) for p in range(PARTS)]
    return TargetJob(
        name="test", target=TargetConfig(**settings), plan=make_plan(part_rows, 16, 1, total_steps, seed=3), seed=3,
        tokenizer=world.tokenizer, tokens=world.tokens, heldout=world.heldout if heldout else None,
        heldout_names=("other",) if heldout else (), heldout_tokens_per_batch=512, out=Storage.open(out),
        num_parameters=0, zero_stage=0, zero_config=None, precision="fp32", card="# card", threads=1,
        objective_set=None, objective_metric="macro", metrics=(*built_in_metrics(), LONGEST),
    )  # fmt: skip


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "model.safetensors")


def macro_losses(out: Path) -> dict[int, float]:
    """Step → mean over the sources, as stored."""
    found = {}
    for path in (out / "evaluations").glob("*.json"):
        step = int(path.stem.removeprefix("step-"))
        found[step] = read_evaluation(Storage.open(out), step)["other"]["macro"]  # type: ignore[index]
    return dict(sorted(found.items()))


def macro_by_hand(world: World, model: Any) -> float:
    """One example at a time, by the model's own loss."""
    table = world.heldout.read_table("other.parquet")
    losses: dict[str, list[float]] = {}
    for row in table.to_pylist():
        ids = torch.tensor([row["input_ids"]])
        labels = torch.where(torch.tensor([row["response_mask"]]), ids, -100)
        with torch.no_grad():
            losses.setdefault(row["source"], []).append(model(input_ids=ids, labels=labels).loss.item())
    return float(np.mean([np.mean(of_source) for of_source in losses.values()]))


def exported(out: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(out / "model").eval()


# --- which weights ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def overfitted(
    world: World, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], LocalWorkerContext]:
    """An undisturbed training that ends worse than it was in between, with keep_best."""
    out = tmp_path_factory.mktemp("overfitted")
    worker = LocalWorkerContext(out / "checkpoints")
    return out, fine_tune(job_of(world, out, keep_best=True), worker), worker


def test_keep_best_exports_the_weights_of_the_lowest_heldout_loss(world: World, overfitted):
    out, summary, _ = overfitted
    losses = macro_losses(out)
    assert list(losses) == list(range(0, 61, 5))
    best = min((loss, step) for step, loss in losses.items() if step)[1]
    assert losses[60] > losses[best] + 0.1, "training must have hurt for this to say anything"
    assert (summary["exported_step"], summary["steps"]) == (best, 60)
    assert macro_by_hand(world, exported(out)) == pytest.approx(losses[best], abs=1e-4)
    longest = max(sum(mask) for mask in world.heldout.read_table("other.parquet")["response_mask"].to_pylist())
    assert read_evaluation(Storage.open(out), best)["other"]["longest"] == longest  # type: ignore[index]


def test_without_keep_best_the_last_weights_are_exported(world: World, overfitted, tmp_path: Path):
    summary = fine_tune(job_of(world, tmp_path), LocalWorkerContext(tmp_path / "checkpoints"))
    assert summary["exported_step"] == summary["steps"] == 60
    assert macro_losses(tmp_path) == macro_losses(overfitted[0])
    assert macro_by_hand(world, exported(tmp_path)) == pytest.approx(macro_losses(tmp_path)[60], abs=1e-4)


@pytest.mark.parametrize("keep_best", [True, False])
def test_patience_ends_the_training_after_so_many_evaluations_without_gain(
    world: World, overfitted, tmp_path: Path, keep_best: bool
):
    losses = macro_losses(overfitted[0])
    job = job_of(world, tmp_path, patience=2, keep_best=keep_best)
    summary = fine_tune(job, LocalWorkerContext(tmp_path / "checkpoints"))
    ours = macro_losses(tmp_path)
    assert ours == {step: losses[step] for step in ours}
    best = min((loss, step) for step, loss in ours.items() if step)[1]
    assert summary["steps"] == max(ours) == best + 2 * 5 < 60
    assert summary["exported_step"] == (best if keep_best else summary["steps"])
    assert macro_by_hand(world, exported(tmp_path)) == pytest.approx(ours[summary["exported_step"]], abs=1e-4)


def test_nothing_held_out_is_trained_and_exported_all_the_same(world: World, tmp_path: Path):
    summary = fine_tune(
        job_of(world, tmp_path, total_steps=3, heldout=False), LocalWorkerContext(tmp_path / "checkpoints")
    )
    assert summary["exported_step"] == 3
    assert not (tmp_path / "evaluations").exists()
    exported(tmp_path)


# --- interruptions ---------------------------------------------------------------------------------------------------


def interrupted(
    job: TargetJob, checkpoints: Path, *deaths: tuple[str, int]
) -> tuple[dict[str, Any], list[LocalWorkerContext]]:
    workers = [LocalWorkerContext(checkpoints, death) for death in deaths]
    for worker in workers:
        with pytest.raises(Died):
            fine_tune(job, worker)
    workers.append(LocalWorkerContext(checkpoints))
    return fine_tune(job, workers[-1]), workers


def without_time(summary: dict[str, Any]) -> dict[str, Any]:
    counters = {k: v for k, v in summary["tally"].items() if k != "train_seconds"}
    return {**summary, "tally": counters, "peak_memory_bytes": None}


@pytest.mark.parametrize(
    "deaths",
    [[("train", 7)], [("train", 23), ("evaluation", 40)], [("train", 60)]],
    ids=["before a checkpoint", "twice", "at the end"],
)
def test_a_death_changes_nothing(world: World, overfitted, tmp_path: Path, deaths: list[tuple[str, int]]):
    """Checkpoints are at 12, 24, 36, 48."""
    out, summary, undisturbed = overfitted
    ours, workers = interrupted(job_of(world, tmp_path, keep_best=True), tmp_path / "checkpoints", *deaths)
    assert without_time(ours) == without_time(summary)
    assert macro_losses(tmp_path) == macro_losses(out)
    assert all(torch.equal(tensor, weights(out)[name]) for name, tensor in weights(tmp_path).items())
    done = [e["step"] for worker in workers for e in worker.events if e["event"] == "evaluation"]
    assert done == sorted(set(done)), "what was evaluated before the death is read back, not evaluated again"
    saved = {p["step"]: p["tally"] for worker in workers for p in worker.progress}
    for progress in undisturbed.progress:
        assert without_time({"tally": saved[progress["step"]]}) == without_time({"tally": progress["tally"]})


def test_a_notice_makes_a_checkpoint_where_none_is_due(world: World, overfitted, tmp_path: Path):
    job, checkpoints = job_of(world, tmp_path, keep_best=True), tmp_path / "checkpoints"
    first, second = (
        LocalWorkerContext(checkpoints, ("train", 18), notice_at=16),
        LocalWorkerContext(checkpoints, notice_at=16),
    )
    with pytest.raises(Died):
        fine_tune(job, first)
    assert [p["step"] for p in first.progress] == [12, 16]
    fine_tune(job, second)
    assert second.events[0] == {"event": "ready", "step": 16}
    assert [p["step"] for p in second.progress] == [24, 36, 48], "where it was restored, one is there"
    assert all(torch.equal(tensor, weights(overfitted[0])[name]) for name, tensor in weights(tmp_path).items())


@pytest.mark.parametrize("keep_best", [True, False])
def test_patience_counts_only_what_a_resumed_training_has_reached_again(world: World, tmp_path: Path, keep_best: bool):
    """It dies after the evaluation that ends it: resumed, it must stop there again, and not at its checkpoint."""
    settings: dict[str, Any] = {"patience": 3, "keep_best": keep_best}
    plain, other = tmp_path / "plain", tmp_path / "other"
    summary = fine_tune(job_of(world, plain, **settings), LocalWorkerContext(plain / "checkpoints"))
    settings["checkpoint_every_steps"] = summary["steps"] - 3 * 5 + 3
    ours, _ = interrupted(job_of(world, other, **settings), other / "checkpoints", ("evaluation", summary["steps"]))
    assert without_time(ours) == without_time(summary)
    assert macro_losses(other) == macro_losses(plain)
    assert all(torch.equal(tensor, weights(plain)[name]) for name, tensor in weights(other).items())


def test_the_tally_is_what_the_plan_gives(world: World, overfitted):
    """Examples and tokens at every checkpoint and at the end: none skipped, none twice in an epoch."""
    _, summary, worker = overfitted
    job = job_of(world, Path("unused"))
    units = [w.parts for w in job.plan.windows_from(0)]
    sizes, tokens, seen = [0], [0], []
    for _, batch in job.plan.batches(0, worker.stream(world.tokens, units)):
        sizes.append(len(batch))
        tokens.append(len(batch.tokens))
        seen.append(batch.ids)
    per_epoch = job.plan.steps_per_epoch
    for start in range(0, 60, per_epoch):
        ids = np.concatenate(seen[start : start + per_epoch])
        assert len(np.unique(ids, axis=0)) == len(ids), "an example twice in an epoch"
        assert len(ids) == job.plan.num_examples or start + per_epoch > 60
    for progress in [*worker.progress, {"step": 60, "tally": summary["tally"]}]:
        step, counters = progress["step"], progress["tally"]
        assert counters["steps"] == step
        assert (counters["examples"], counters["tokens"]) == (sum(sizes[: step + 1]), sum(tokens[: step + 1]))


# --- adapters --------------------------------------------------------------------------------------------------------


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
    assert macro_by_hand(world, exported(merged)) == pytest.approx(macro_losses(merged)[20], abs=1e-4)
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


def test_adapters_survive_a_death(world: World, adapted, tmp_path: Path):
    out, summary = adapted["merged"]
    job = job_of(world, tmp_path, 20, model=str(world.base), lora={"rank": 4, "alpha": 16})
    ours, _ = interrupted(job, tmp_path / "checkpoints", ("train", 15))
    assert without_time(ours) == without_time(summary)
    assert all(torch.equal(tensor, weights(out)[name]) for name, tensor in weights(tmp_path).items())
