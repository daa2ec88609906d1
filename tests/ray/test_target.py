"""The target on real Ray Train: what a run leaves, its figures computed a second way, what deaths change (nothing)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import s2l_ray
from s2l_ray.artifacts.run import Run, load_run, part_rows
from s2l_ray.artifacts.runner import StageRunner
from s2l_ray.artifacts.stage import Stage
from s2l_ray.cli import main
from s2l_ray.config import ConfigError, load_config
from s2l_ray.data.example_id import content_id
from s2l_ray.data.token_parts import read_parts
from s2l_ray.data.training_order import make_plan
from s2l_ray.lm.flops import ModelShape
from s2l_ray.observability.metrics_log import MetricsLog, read_metrics
from s2l_ray.stages.context import RunContext
from s2l_ray.stages.corpus.stage import corpus_spec
from s2l_ray.stages.layout import lay_out
from s2l_ray.stages.target.card import markdown
from s2l_ray.stages.target.stage import total_steps
from s2l_ray.storage.folder import Storage
from s2l_ray.testing.processes import train_workers
from s2l_ray.testing.quiet import Quiet
from s2l_ray.testing.tiny import tiny_run_config, write_jsonl
from tests.support.colours import colour_rows

pytestmark = pytest.mark.usefixtures("ray_cluster")

SUBSET = "s2l-0.3"
OVERLAP = 5
"""Rows of the held-out file that are in the corpus, or in its split, too."""


def tree_of(folder: Path) -> dict[str, Any]:
    rows = colour_rows(600, seed=0)
    write_jsonl(folder / "corpus.jsonl", [*rows, *rows[:50]])
    write_jsonl(folder / "test.jsonl", [*colour_rows(60, seed=1), *rows[:OVERLAP]])
    tree = tiny_run_config(
        folder / "run", proxy__epochs=1, trajectories__num_snapshots=2, clusters__num_clusters=5,
        selection__budgets=[0.3], heldout={"share": 0.1, "files": {"test": [str(folder / "test.jsonl")]}},
    )  # fmt: skip
    tree["corpus"] = {"paths": [str(folder / "corpus.jsonl")]}
    # Some twenty steps to the first answers that are right, some eighty to all that can be.
    tree["target"] = {**tree["proxy"], "subsets": [SUBSET, "full"], "length": "same_steps", "epochs": 5,
                      "learning_rate": 1e-2, "log_every_steps": 1}  # fmt: skip
    return tree


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Run:
    """One undisturbed run, which most tests look at and others are compared with."""
    return s2l_ray.run(tree_of(tmp_path_factory.mktemp("target")), progress=Quiet())


def copy_of(run: Run, folder: Path) -> Path:
    """The run before its targets were trained."""
    copy = folder / "run"
    source = str(run.storage.local_path())
    shutil.copytree(source, copy, ignore=lambda at, names: {"target", "locks"} & set(names) if at == source else set())
    return copy


def heldout_examples(run: Run, name: str) -> dict[bytes, dict[str, Any]]:
    rows = run.stage("heldout").storage.read_table(f"{name}.parquet").to_pylist()
    return {row["example_id"]: row for row in rows}


def scores(stage: Stage, step: int, name: str) -> dict[bytes, dict[str, Any]]:
    rows = stage.storage.read_table(f"evaluations/step-{step:08d}.parquet").to_pylist()
    return {row["example_id"]: row for row in rows if row["heldout_set"] == name}


def exported(stage: Stage) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = stage.storage.local_path("model")
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def after(stage: Stage, name: str = "split") -> dict[str, Any]:
    return stage.manifest.extra["evaluation"][name]["after"]


# --- what a run leaves -----------------------------------------------------------------------------------------------


def test_figures_before_and_after_follow_from_the_stored_losses(finished: Run):
    """Micro, macro and exact matches computed anew, from the losses per example and the sources."""
    for target in finished.targets.values():
        evaluation = target.manifest.extra["evaluation"]
        assert list(evaluation) == ["test", "split"]
        for name, results in evaluation.items():
            examples = heldout_examples(finished, name)
            for when, step in (("before", 0), ("after", target.manifest.extra["summary"]["steps"])):
                stored, result = scores(target, step, name), results[when]
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
    stored = scores(target, target.manifest.extra["summary"]["steps"], "split")
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
    stored = scores(target, target.manifest.extra["summary"]["steps"], "test")
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
    assert [e["step"] for e in events if e["event"] == "evaluation"] == [0, steps]


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
    assert f"test: {len(left_out)} examples are in the corpus too and were left out" in heldout.manifest.warnings


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
        ({"keep_best": True}, {"share": 0.1}, ["target.keep_best would never act", "set target.evaluate_every_steps"]),
        ({"patience": 2}, {"share": 0.1}, ["target.patience would never act", "set target.evaluate_every_steps"]),
        (
            {"patience": 2, "evaluate_every_steps": 5},
            {},
            ["target.patience goes by the held-out loss", "heldout.share"],
        ),
        ({"lora": {"export": "adapter"}}, {}, ["adapters alone", "target.lora.export=merged"]),
        ({"lora": {"target_modules": "lm_head"}}, {}, ["language-model head", "leave it out"]),
        ({"subsets": ["s2l-0.7"]}, {}, ["'s2l-0.7' is no subset of this selection", f"known: {SUBSET}, full"]),
        ({"zero_stage": 0, "offload_optimizer": "cpu"}, {}, ["zero_stage=0 is without it", "target.zero_stage to 1"]),
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
    assert {n for n, s in changed.stages.items() if not s.reused} == {f"target/{SUBSET}"}
    target = changed.targets[SUBSET]
    weights = target.storage.local_path("model/model.safetensors")
    before = weights.read_bytes()
    weights.unlink()
    progress = Quiet()
    repaired = s2l_ray.run(tree, progress=progress)
    assert "model/model.safetensors is missing" in progress.lines()
    assert {n for n, s in repaired.stages.items() if not s.reused} == {f"target/{SUBSET}"}
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


# --- deaths ----------------------------------------------------------------------------------------------------------


def wait_for_checkpoint(run: Path, number: int, seconds: float = 240) -> bool:
    """Until some worker writes the checkpoint: the one before it is complete."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if len(list(run.glob("target/*/ray_train/step-*"))) >= number:
            return True
        time.sleep(0.005)
    return False


def assert_same_result(ours: Stage, undisturbed: Stage, atol: float) -> None:
    """Held-out losses of the final weights, and what was trained on."""
    theirs, mine = (s.manifest.extra["summary"]["tally"] for s in (undisturbed, ours))
    for count in ("steps", "examples", "tokens", "response_tokens", "sum_squared_lengths"):
        assert mine[count] == theirs[count], "an example was skipped, or seen twice"
    steps = undisturbed.manifest.extra["summary"]["steps"]
    for name in ("split", "test"):
        for figure in ("micro", "macro", "per_token"):
            assert after(ours, name)[figure] == pytest.approx(after(undisturbed, name)[figure], abs=atol)
        a, b = scores(ours, steps, name), scores(undisturbed, steps, name)
        assert set(a) == set(b)
        if atol == 0:
            assert all(a[i]["loss_nats"] == b[i]["loss_nats"] for i in a)


@pytest.mark.slow
def test_a_killed_worker_costs_nothing_but_time(finished: Run, tmp_path: Path):
    """kill -9 in the middle of an epoch of five steps, with checkpoints every seventeen: the same bits."""
    copy = copy_of(finished, tmp_path)
    killed = []

    def kill() -> None:
        if wait_for_checkpoint(copy, 2):
            for process in train_workers():
                process.kill()
                killed.append(process.pid)

    thread = threading.Thread(target=kill)
    thread.start()
    progress = Quiet()
    target = s2l_ray.finetune(str(copy), SUBSET, progress=progress)
    thread.join()
    assert killed, "no worker was found to kill"
    assert "the workers are up, from step" in progress.lines()
    assert_same_result(target, finished.targets[SUBSET], atol=0)
    assert target.manifest.content_fingerprint == finished.targets[SUBSET].manifest.content_fingerprint
    weights = [s.storage.read_bytes("model/model.safetensors") for s in (target, finished.targets[SUBSET])]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(("stage", "resumed_stage"), [(0, 0), pytest.param(2, 0, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_killed_driver_of_two_workers_is_resumed_with_one(
    finished: Run, tmp_path: Path, stage: int, resumed_stage: int
):
    """Also where the one worker has no use for ZeRO any more."""
    if stage or resumed_stage:
        pytest.importorskip("deepspeed")
    copy = copy_of(finished, tmp_path)
    command = [sys.executable, "-m", "s2l_ray.cli", "finetune", str(copy), "--budget", "0.3",
               f"target.zero_stage={stage}", "resources.target.workers=2"]  # fmt: skip
    with open(tmp_path / "log", "w") as log:
        driver = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ)
        try:
            reached = wait_for_checkpoint(copy, 2)
        finally:
            driver.kill()
            driver.wait()
    assert reached, (tmp_path / "log").read_text()[-3000:]
    assert not list(copy.glob("target/*/manifest.json")), "it was done before it was killed"
    progress = Quiet()
    overrides = [f"target.zero_stage={resumed_stage}", "resources.target.workers=1"]
    target = s2l_ray.finetune(str(copy), SUBSET, overrides, progress=progress)
    assert "the workers are up, from step" in progress.lines()
    assert target.manifest.extra["summary"]["zero_stage"] == resumed_stage
    assert_same_result(target, finished.targets[SUBSET], atol=1e-3)


# --- s2l finetune ----------------------------------------------------------------------------------------------------


def test_finetune_takes_the_full_data_or_a_rival_at_another_budget(finished: Run, capsys: pytest.CaptureFixture[str]):
    run = str(finished.storage.local_path())
    assert main(["finetune", run, "--full"]) == 0
    said = capsys.readouterr().out
    assert "[target/full] unchanged, skipped" in said
    assert main(["finetune", run, "--subset", "random-0.2", "target.length=epochs", "target.epochs=1"]) == 0
    said = capsys.readouterr().out
    reread = load_run(run)
    total = reread.stage("trajectories").manifest.row_counts["trajectories"]
    target = reread.targets["random-0.2"]
    assert target.manifest.row_counts["examples"] == reread.subsets["random-0.2"].manifest.row_counts["examples"]
    assert target.manifest.row_counts["examples"] == int(0.2 * total + 0.5)
    assert target.manifest.extra["summary"]["steps"] == -(-target.manifest.row_counts["examples"] // 32)
    assert set(reread.targets) == {SUBSET, "full", "random-0.2"}
    for name in reread.targets:
        assert any(line.split()[:1] == [name] for line in said.splitlines()), "the table has them all"
    assert {n: s.folder for n, s in reread.targets.items() if n != "random-0.2"} == {
        n: s.folder for n, s in finished.targets.items()
    }


@pytest.mark.parametrize(
    ("arguments", "pieces"),
    [
        (["corpus.paths=[other.jsonl]"], ["'corpus.paths=[other.jsonl]'", "selection is finished", "use `s2l run`"]),
        (["heldout.share=0.3"], ["'heldout.share=0.3'", "selection is finished", "use `s2l run`"]),
        (["--subset", "best"], ["'best' is neither a subset of this run", "there: s2l-", "random-0.3"]),
        (["--subset", "best-0.2"], ["unknown selector 'best'", "known: ", "random_per_source"]),
        (["--full", "--selector", "random"], ["--full says all about what", "--selector random something else"]),
        (["--full", "target.max_steps=5"], ["target.max_steps=5", "set target.length=epochs"]),
        (["--full", "target.model=no/such-model"], ["'no/such-model' cannot be loaded", "Check the spelling"]),
        (["--full", "target.max_length=4000", "target.tokens_per_microbatch=4000"],
         ["target.max_length=4000 is beyond the model's 2048 positions", "set target.max_length=2048 or less"]),
        (["--full", "estimates.worker_memory_gb=0.5"],
         ["the target needs about", "a worker has 0.5 GB", "out of memory", "workers with more memory"]),
        (["--full", "heldout.files.mine=[none.jsonl]"], ["heldout.files.mine: nothing matches", "check path"]),
        (["--full", "resources.target.workers=64"], ["64 workers with 1 CPU", "wait indefinitely", "target.workers"]),
        (["--full", "target.lora.target_modules=[elsewhere]"], ["target.lora.target_modules=['elsewhere']"]),
    ],
)  # fmt: skip
def test_finetune_refuses_before_anything_is_trained(
    finished: Run, capsys: pytest.CaptureFixture[str], arguments: list[str], pieces: list[str]
):
    folder = finished.storage.local_path()
    before = {p for p in folder.rglob("*") if p.parent.name == "target"}
    assert main(["finetune", str(folder), *arguments]) == 2
    error = capsys.readouterr().err
    for piece in pieces:
        assert piece in error, error
    assert {p for p in folder.rglob("*") if p.parent.name == "target"} == before


def test_finetune_refuses_names_that_say_no_subset_and_runs_without_target(finished: Run):
    with pytest.raises(ConfigError, match=rf"'s2l' is neither a subset of this run \(there: {SUBSET}"):
        s2l_ray.finetune(str(finished.storage.local_path()), "s2l", progress=Quiet())
    run = load_run(str(finished.storage.local_path()))
    run.config = run.config.model_copy(update={"target": None})
    with pytest.raises(ConfigError, match=r"there is no target: add target\.model"):
        s2l_ray.finetune(run, "full", progress=Quiet())


# --- adapters --------------------------------------------------------------------------------------------------------


def test_adapters_go_into_a_pretrained_model_and_come_out_merged(finished: Run):
    """The finished run's own proxy is the pretrained model; its tokenizer comes with it."""
    base = finished.stage("proxy").storage.local_path("model")
    target = s2l_ray.finetune(
        str(finished.storage.local_path()), SUBSET,
        [f"target.model={base}", "target.lora.rank=4", "target.length=epochs", "target.epochs=4"], progress=Quiet(),
    )  # fmt: skip
    summary = target.manifest.extra["summary"]
    assert summary["num_trained_parameters"] < summary["num_parameters"] / 2
    results = target.manifest.extra["evaluation"]["split"]
    assert results["after"]["micro"] < results["before"]["micro"]
    model, _ = exported(target)
    losses = []
    for example in heldout_examples(finished, "split").values():
        ids, mask = torch.tensor([example["input_ids"]]), torch.tensor([example["response_mask"]])
        with torch.no_grad():
            losses.append(model(input_ids=ids, labels=torch.where(mask, ids, -100)).loss.item())
    assert np.mean(losses) == pytest.approx(results["after"]["micro"], abs=1e-4)
    assert f"| base | {markdown(str(base))}" in target.storage.read_bytes("model/README.md").decode()
