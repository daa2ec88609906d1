"""`s2l finetune` on real Ray Train: other subsets, what it refuses, adapters."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

import s2l_ray
from s2l_ray.artifacts.run import Run, load_run
from s2l_ray.cli import main
from s2l_ray.config import ConfigError
from s2l_ray.stages.target.card import markdown
from s2l_ray.testing.quiet import Quiet
from tests.support.target_run import SUBSET, exported, heldout_examples

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def finished(finished_target: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of one's own, which other targets are added to."""
    copy = tmp_path_factory.mktemp("finetune") / "run"
    return load_run(str(shutil.copytree(finished_target.storage.local_path(), copy)))


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
        (["corpus.paths=[other.jsonl]"], ["'corpus.paths=[other.jsonl]'", "selection is complete", "use `s2l run`"]),
        (["heldout.share=0.3"], ["'heldout.share=0.3'", "selection is complete", "use `s2l run`"]),
        (["--subset", "best"], ["'best' is neither a subset of this run", "available: s2l-", "random-0.3"]),
        (["--subset", "best-0.2"], ["unknown selector 'best'", "known: ", "random_per_source"]),
        (["--full", "--selector", "random"], ["--full fully determines what", "--selector random contradicts it"]),
        (["--full", "target.max_steps=5"], ["target.max_steps=5", "set target.length=epochs"]),
        (["--full", "target.model=no/such-model"], ["'no/such-model' cannot be loaded", "Check the spelling"]),
        (["--full", "target.max_length=4000", "target.tokens_per_microbatch=4000"],
         ["target.max_length=4000 exceeds the model's 2048 positions", "set target.max_length=2048 or less"]),
        (["--full", "estimates.worker_memory_gb=0.5"],
         ["the target needs about", "a worker has 0.5 GB", "out of memory", "workers with more memory"]),
        (["--full", "heldout.files.mine=[none.jsonl]"], ["heldout.files.mine: nothing matches", "check the path"]),
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
    with pytest.raises(ConfigError, match=rf"'s2l' is neither a subset of this run \(available: {SUBSET}"):
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
    results = target.evaluation["split"]
    assert results["after"]["micro"] < results["before"]["micro"]
    model, _ = exported(target)
    losses = []
    for example in heldout_examples(finished, "split").values():
        ids, mask = torch.tensor([example["input_ids"]]), torch.tensor([example["response_mask"]])
        with torch.no_grad():
            losses.append(model(input_ids=ids, labels=torch.where(mask, ids, -100)).loss.item())
    assert np.mean(losses) == pytest.approx(results["after"]["micro"], abs=1e-4)
    assert f"| base | {markdown(str(base))}" in target.storage.read_bytes("model/README.md").decode()
