"""The target on real Ray Train: what a run leaves, its figures computed a second way, what is trained again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import s2l_ray
from s2l_ray.artifacts.run import Run, part_rows
from s2l_ray.artifacts.runner import StageRunner
from s2l_ray.config import ConfigError, load_config
from s2l_ray.data.example_id import content_id
from s2l_ray.data.token_parts import read_parts
from s2l_ray.data.training_order import make_plan
from s2l_ray.lm.flops import ModelShape
from s2l_ray.observability.metrics_log import MetricsLog, read_metrics
from s2l_ray.stages.context import RunContext
from s2l_ray.stages.corpus.stage import corpus_spec
from s2l_ray.stages.layout import lay_out
from s2l_ray.stages.target.stage import total_steps
from s2l_ray.storage.folder import Storage
from s2l_ray.testing.quiet import Quiet
from tests.support.target_run import SUBSET, copy_of, evaluation_of, exported, heldout_examples, scores, tree_of

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def finished(finished_target: Run) -> Run:
    """One undisturbed run, which most tests look at and others are compared with."""
    return finished_target


# --- what a run leaves -----------------------------------------------------------------------------------------------


def test_figures_before_and_after_follow_from_the_stored_losses(finished: Run):
    """Micro, macro and exact matches computed anew, from the losses per example and the sources."""
    base = finished.stage("heldout_evaluation/base")
    for label in finished.targets:
        target = finished.target(label)
        assert target.heldout_evaluation is not None
        assert list(target.evaluation) == ["test", "split"]
        for name, results in target.evaluation.items():
            examples = heldout_examples(finished, name)
            for when, evaluation in (("before", base), ("after", target.heldout_evaluation)):
                stored, result = scores(evaluation, name), results[when]
                assert set(stored) == set(examples)
                by_source: dict[str, list[tuple[float, bool]]] = {}
                for example_id, row in stored.items():
                    source = examples[example_id]["source"]
                    by_source.setdefault(source, []).append((row["loss_nats"], row["exact_match"]))
                assert set(by_source) == set(result["per_source"]) == {"easy", "hard"}
                means = {s: np.mean([loss for loss, _ in found]) for s, found in by_source.items()}
                for source, found in by_source.items():
                    of_source = result["per_source"][source]
                    assert of_source["num_examples"] == len(found)
                    assert of_source["loss"] == pytest.approx(means[source], abs=1e-6)
                    assert of_source["exact_match"] == pytest.approx(np.mean([hit for _, hit in found]))
                assert result["num_examples"] == len(stored)
                assert result["micro"] == pytest.approx(np.mean([r["loss_nats"] for r in stored.values()]), abs=1e-6)
                assert result["macro"] == pytest.approx(np.mean(list(means.values())), abs=1e-6)
                assert abs(result["macro"] - result["micro"]) > 1e-3, "sources must differ for this to say anything"
            assert results["after"]["micro"] < results["before"]["micro"] - 2


def test_stored_losses_are_those_of_the_exported_model_one_example_at_a_time(finished: Run):
    """The split's texts, tokenised by the exported tokenizer, through the exported model's own loss."""
    target = finished.targets[SUBSET]
    model, tokenizer = exported(target)
    stored = scores(evaluation_of(target), "split")
    held_out = finished.stage("corpus").storage.sub("heldout")
    rows = [r for entry in held_out.list() for r in held_out.read_table(entry.name).to_pylist()]
    assert len(rows) == len(stored)
    for row in rows:
        prompt = tokenizer(row["messages"][0]["content"] + "\n")["input_ids"]
        response = tokenizer(row["messages"][1]["content"])["input_ids"] + [tokenizer.eos_token_id]
        ids, labels = torch.tensor([prompt + response]), torch.tensor([[-100] * len(prompt) + response])
        with torch.no_grad():
            loss = model(input_ids=ids, labels=labels).loss.item()
        assert loss == pytest.approx(stored[row["example_id"]]["loss_nats"], abs=1e-4)


def test_an_exact_match_is_what_greedy_decoding_gives(finished: Run):
    target = finished.targets[SUBSET]
    model, _ = exported(target)
    stored = scores(evaluation_of(target), "test")
    hits = []
    for example_id, row in list(heldout_examples(finished, "test").items())[:50]:
        num_prompt = row["response_mask"].index(True)
        prompt, response = row["input_ids"][:num_prompt], row["input_ids"][num_prompt:]
        given = model.generate(torch.tensor([prompt]), max_new_tokens=len(response), do_sample=False)[0, num_prompt:]
        hits.append(given.tolist() == response)
        assert hits[-1] == stored[example_id]["exact_match"]
    assert 5 < sum(hits) < 45, "some must be right and some wrong for this to say anything"


def test_the_exported_folder_is_whole_and_holds_no_pickle(finished: Run):
    from transformers import GenerationConfig

    for name, target in finished.targets.items():
        folder = target.storage.local_path("model")
        model, tokenizer = exported(target)
        generation = GenerationConfig.from_pretrained(folder)
        assert generation.eos_token_id == tokenizer.eos_token_id == model.config.eos_token_id
        assert model.get_input_embeddings().num_embeddings == len(tokenizer)
        assert {p.suffix for p in folder.iterdir()} == {".json", ".safetensors", ".md"}
        assert not target.storage.exists("ray_train")
        card = (folder / "README.md").read_text(encoding="utf-8")
        head = yaml.safe_load(card.split("---")[1])
        assert head["library_name"] == "transformers"
        corpus = finished.stage("corpus").manifest
        for piece in (
            "corpus.jsonl", f"{corpus.row_counts['examples']:,} examples", corpus.content_fingerprint, "llama",
            f"| seed | {target.manifest.seeds['target']} |", f"fine-tuned on {name}",
            "85 of 32 examples", "0.01", "fp32",
        ):  # fmt: skip
            assert piece in card, piece
        if name != "full":
            subset = finished.subset(name).manifest
            budget = f"s2l, budget 0.3 = {subset.row_counts['examples']} examples, seed {subset.seeds['selection']}"
            assert budget in card
            assert subset.content_fingerprint in card


def test_steps_tokens_and_flops_are_those_of_the_plan(finished: Run):
    """Rivals at equal cost: same steps on the subset as on everything; every example as often as any other."""
    steps = 5 * -(-finished.stage("trajectories").manifest.row_counts["trajectories"] // 32)
    for name, target in finished.targets.items():
        tokens, summary = finished.stage(f"target-tokens/{name}"), target.manifest.extra["summary"]
        plan = make_plan(part_rows(tokens), 32, 1, steps, seed=0)
        folder = tokens.storage.sub("parts")
        loaded = (read_parts(folder, list(w.parts)) for w in plan.windows_from(0))
        batches = [batch for _, batch in plan.batches(0, loaded)]
        tally = summary["tally"]
        assert summary["steps"] == summary["exported_step"] == tally["steps"] == len(batches) == steps
        assert tally["examples"] == sum(len(b) for b in batches)
        assert tally["tokens"] == sum(len(b.tokens) for b in batches)
        assert tally["response_tokens"] == sum(int(b.mask.sum()) for b in batches)
        squares = sum(int((b.lengths**2).sum()) for b in batches)
        shape = ModelShape(**summary["shape"])
        assert summary["flops"] == shape.training_flops(tally["tokens"], tally["response_tokens"], squares)
        model, _ = exported(target)
        assert (
            summary["num_parameters"] == summary["num_trained_parameters"] == sum(p.numel() for p in model.parameters())
        )
        assert target.manifest.row_counts["examples"] == plan.num_examples
        assert target.manifest.extra["memory"]["device_bytes"] > 0
    events = [e for e in read_metrics(finished.storage) if e["stage"] == f"target/{SUBSET}"]
    trained = [e for e in events if e["event"] == "train"]
    assert [e["step"] for e in trained] == list(range(1, steps + 1))
    assert trained[-1]["loss_nats"] < trained[0]["loss_nats"] - 2
    told = [e for e in read_metrics(finished.storage) if e["stage"] == f"heldout_evaluation/{SUBSET}"]
    assert [e["step"] for e in told if e["event"] == "evaluation"] == [0, steps]


def test_what_is_held_out_is_nowhere_trained_on(finished: Run):
    def ids(storage: Storage, names: list[str]) -> set[bytes]:
        return {i for n in names for i in storage.read_table(n, columns=["example_id"])["example_id"].to_pylist()}

    def parts_of(name: str, folder: str) -> set[bytes]:
        storage = finished.stage(name).storage.sub(folder)
        return ids(storage, [entry.name for entry in storage.list()])

    heldout = finished.stage("heldout")
    split, test = ids(heldout.storage, ["split.parquet"]), ids(heldout.storage, ["test.parquet"])
    counts = finished.stage("corpus").manifest.row_counts
    assert len(split) == counts["held_out"] > 30
    trained_on = {
        "corpus": parts_of("corpus", "examples"), "proxy": parts_of("tokens", "parts"),
        "subset": ids(finished.subset(SUBSET).storage, ["ids.parquet"]),
        "target": parts_of(f"target-tokens/{SUBSET}", "parts"), "full": parts_of("target-tokens/full", "parts"),
    }  # fmt: skip
    for name, found in trained_on.items():
        assert found, name
        assert not found & (split | test), name
    assert trained_on["corpus"] == trained_on["proxy"] == trained_on["full"]
    assert trained_on["target"] == trained_on["subset"] < trained_on["corpus"]
    lines = Path(finished.config.heldout.files["test"][0]).read_text().splitlines()
    contents = [(row["instruction"], row["output"]) for row in map(json.loads, lines)]
    in_file = {content_id([{"role": "user", "content": p}, {"role": "assistant", "content": r}]) for p, r in contents}
    left_out = in_file & trained_on["corpus"]
    assert left_out
    assert test == in_file - left_out
    assert f"test: {len(left_out)} examples are also in the corpus and were skipped" in heldout.manifest.warnings


# --- how long --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"epochs": 3}, lambda subset, full, tokens: 3 * -(-subset // 32)),
        ({"epochs": 0.5}, lambda subset, full, tokens: round(0.5 * -(-subset // 32))),
        ({"epochs": 3, "length": "same_steps"}, lambda subset, full, tokens: 3 * -(-full // 32)),
        ({"epochs": 0.001, "length": "same_steps"}, lambda subset, full, tokens: 1),
        ({"max_steps": 7}, lambda subset, full, tokens: 7),
        ({"max_tokens": 10_000}, lambda subset, full, tokens: round(10_000 / tokens * -(-subset // 32))),
        ({"max_tokens": 1}, lambda subset, full, tokens: 1),
        # One small batch an epoch: the tokens are those of the subset, not of a full batch.
        ({"max_tokens": 10_000, "global_batch_size": 1000}, lambda subset, full, tokens: round(10_000 / tokens)),
    ],
)
def test_length_rules_become_steps(finished: Run, changes: dict[str, Any], expected: Callable[..., int]):
    assert finished.config.target is not None
    given = {"epochs": 1.0, "length": "epochs"} | changes
    target = type(finished.config.target).model_validate(finished.config.target.model_dump() | given)
    tokens = finished.stage(f"target-tokens/{SUBSET}")
    subset, full = (finished.stage(f"target-tokens/{n}").manifest.row_counts["examples"] for n in (SUBSET, "full"))
    assert total_steps(target, tokens, finished.stage("tokens")) == expected(
        subset, full, tokens.manifest.extra["num_tokens"]
    )


@pytest.mark.parametrize(
    ("changes", "heldout", "pieces"),
    [
        ({"max_steps": 5, "max_tokens": 9}, {"share": 0.1}, ["max_steps=5 and target.max_tokens=9", "remove one"]),
        ({"length": "same_steps", "max_steps": 5}, {"share": 0.1}, ["target.max_steps=5", "target.length=epochs"]),
        ({"length": "same_steps", "max_tokens": 9}, {"share": 0.1}, ["target.max_tokens=9", "target.length=epochs"]),
        (
            {"keep_best": True},
            {"share": 0.1},
            ["target.keep_best would have no effect", "set target.evaluate_every_steps"],
        ),
        ({"patience": 2}, {"share": 0.1}, ["target.patience would have no effect", "set target.evaluate_every_steps"]),
        (
            {"patience": 2, "evaluate_every_steps": 5},
            {},
            ["target.patience depends on the held-out loss", "heldout.share"],
        ),
        ({"lora": {"export": "adapter"}}, {}, ["only the adapters", "target.lora.export=merged"]),
        ({"lora": {"target_modules": "lm_head"}}, {}, ["language-model head", "leave it out"]),
        ({"subsets": ["s2l-0.7"]}, {}, ["'s2l-0.7' is not a subset of this selection", f"known: {SUBSET}, full"]),
        ({"zero_stage": 0, "offload_optimizer": "cpu"}, {}, ["zero_stage=0 does not use", "target.zero_stage to 1"]),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, changes: dict[str, Any], heldout: Any, pieces: list[str]):
    tree = tree_of(tmp_path) | {"heldout": heldout}
    tree["target"] |= {"length": "epochs", "epochs": 1, **changes}
    with pytest.raises(ConfigError) as refused:
        load_config(tree)
    for piece in pieces:
        assert piece in str(refused.value)


# --- what is made again ----------------------------------------------------------------------------------------------


def test_a_second_run_skips_the_targets_whatever_the_machines(finished: Run):
    tree = finished.config.model_dump(mode="json")
    tree["target"] |= {"zero_stage": 1, "offload_optimizer": "cpu", "gradient_checkpointing": True,
                       "checkpoints_to_keep": 1}  # fmt: skip
    tree["resources"]["target"]["workers"] = 2
    for again in (s2l_ray.run(finished.config, progress=Quiet()), s2l_ray.run(tree, progress=Quiet())):
        assert all(stage.reused for stage in again.stages.values())
        assert set(again.targets) == {SUBSET, "full"}
    s2l_ray.run(finished.config, progress=Quiet())  # its configuration is the run's again


def test_a_changed_learning_rate_trains_the_target_again_and_a_damaged_model_is_exported_anew(finished: Run):
    tree = finished.config.model_dump(mode="json")
    tree["target"] |= {"learning_rate": 2e-2, "epochs": 1, "keep_best": True, "evaluate_every_steps": 6,
                       "subsets": [SUBSET]}  # fmt: skip
    changed = s2l_ray.run(tree, progress=Quiet())
    both = {f"target/{SUBSET}", f"heldout_evaluation/{SUBSET}"}
    assert {n for n, s in changed.stages.items() if not s.reused} == both
    target = changed.targets[SUBSET]
    weights = target.storage.local_path("model/model.safetensors")
    before = weights.read_bytes()
    weights.unlink()
    progress = Quiet()
    repaired = s2l_ray.run(tree, progress=progress)
    assert "model/model.safetensors is missing" in progress.lines()
    assert {n for n, s in repaired.stages.items() if not s.reused} == {f"target/{SUBSET}"}, "the same weights"
    assert weights.read_bytes() == before
    assert repaired.targets[SUBSET].manifest.content_fingerprint == target.manifest.content_fingerprint
    s2l_ray.run(finished.config, progress=Quiet())


@pytest.mark.parametrize(
    ("heldout", "reused"),
    [({"share": 0.1}, True), ({"share": 0.2}, False), ({}, False)],
    ids=["other files", "another share", "nothing held out"],
)
def test_the_share_changes_the_corpus_and_files_do_not(finished: Run, tmp_path: Path, heldout: Any, reused: bool):
    copy = copy_of(finished, tmp_path)
    tree = finished.config.model_dump(mode="json") | {"heldout": heldout, "run_dir": str(copy)}
    run = Run(load_config(tree), Storage.open(copy))
    with MetricsLog(run.storage) as metrics:
        runner = StageRunner(run, Quiet(), metrics)
        stage = runner.ensure(corpus_spec(RunContext(run.config, runner, lay_out(run.config, Quiet().say))))
    assert stage.reused == reused
    same = finished.stage("corpus").manifest.content_fingerprint == stage.manifest.content_fingerprint
    assert same == reused
