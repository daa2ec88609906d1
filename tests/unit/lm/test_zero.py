"""DeepSpeed ZeRO in real processes: the same training as plain PyTorch, sharded or resumed in whatever way."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from s2l_ray.lm.batches import Batching
from s2l_ray.lm.response_loss import ResponseLoss
from s2l_ray.lm.step import learning_rate
from s2l_ray.lm.zero_checkpoint import Checkpoint, CheckpointMismatch
from s2l_ray.testing.tiny import random_model
from tests.support.collection import runs_thorough
from tests.support.paths import ROOT, SUPPORT
from tests.support.zero_worker import TOTAL_STEPS, Case, batch_of, config_of, evaluate, run_case

HALF = TOTAL_STEPS // 2
CLOSE = 1e-3
"""Nats. Sharded sums round differently, and Adam makes the most of it."""

pytest.importorskip("deepspeed")
pytest.importorskip("peft")
pytestmark = pytest.mark.timeout(1200)  # the first test waits for all processes

OVERLAPPED = {"zero_optimization": {"overlap_comm": True, "reduce_bucket_size": 5000}}
"""Several buckets a micro-batch, which two buffers take in turn."""
# Small chunks: the workers have different numbers of them, so a fetch of weights within the loop would hang.
UNBROKEN = [
    Case("stage 1", stage=1, save_at=HALF, overflow_at=2),
    Case("stage 2", stage=2, save_at=HALF, overflow_at=2, chunk_elements=3000, recompute=True),
    Case("stage 3", stage=3, save_at=HALF, overflow_at=2, chunk_elements=3000, recompute=True, evaluate_at=[0, 3]),
    Case("small parameters whole", stage=3, shard_all=False, save_at=HALF, evaluate_at=[0, 3]),
    Case("neox stage 1", stage=1, shape="gpt_neox"),
    Case("neox stage 3, built in shards", stage=3, shape="gpt_neox", recompute=True, pretrained="gpt_neox"),
    Case("lora stage 2", stage=2, lora=True),
    Case("lora stage 3, built in shards", stage=3, lora=True, save_at=HALF, recompute=True, pretrained="llama"),
    Case("no stage"),
    Case("no stage, sent in bf16", send_bf16=True),
    Case("overlapped stage 2", stage=2, user=OVERLAPPED),
    Case("bf16 overlapped stage 2", stage=2, precision="bf16", user=OVERLAPPED),
    Case("bf16 no stage", precision="bf16"),
    Case("bf16 stage 1", stage=1, precision="bf16", save_at=HALF),
    Case("bf16 stage 2", stage=2, precision="bf16", save_at=HALF),
    Case("bf16 stage 3", stage=3, precision="bf16", overflow_at=2),
]
OFFLOADED = [
    Case("offload stage 2", stage=2, offload="cpu"),
    Case("offload stage 3", stage=3, offload="cpu", save_at=HALF),
]
NVME = Case("nvme stage 3", stage=3, offload="nvme", save_at=HALF, overflow_at=2)
LORA = "lora stage 3, built in shards"
RESUMED = {  # by number of workers: (case, stage, case that wrote on 2 workers; "alone" wrote on 1)
    1: [("1 of stage 1", 1, "stage 1"), ("1 of stage 3", 3, "stage 3"), ("1 of lora", 3, LORA)],
    2: [("2 of stage 1", 1, "stage 1"), ("2 of stage 3", 3, "small parameters whole"), ("2 of lora", 3, LORA),
        ("other stage", 3, "stage 2"), ("2 of 1", 2, "alone"), ("2 of bf16", 1, "bf16 stage 1")],
}  # fmt: skip
QUICK = {"stage 1", "stage 2", "stage 3", "2 of stage 1", "other stage"}
"""What runs without `--thorough`: every stage, resumed at the same and at another."""
RESUMED_OFFLOADED = {1: [("1 of offload", 3, "offload stage 3")]}


def cases_of(resumed: dict[int, list[tuple[str, int, str]]]) -> list[tuple[str, str]]:
    """(case, case that wrote its checkpoint)."""
    return [(name, source) for cases in resumed.values() for name, _, source in cases]


def in_tiers(names: Iterable[Any]) -> list[Any]:
    """Names, or tuples that begin with one: those that are not quick are thorough."""
    cases = [name if isinstance(name, tuple) else (name,) for name in names]
    return [pytest.param(*c, marks=() if c[0] in QUICK else pytest.mark.thorough) for c in cases]


def in_bf16(case: Case) -> bool:
    """Whether it is only near to training in fp32."""
    return case.precision == "bf16" or case.send_bf16


def reference_of(name: str) -> str:
    return next((kind for kind in ("neox", "lora") if kind in name), "llama")


def has_nvme() -> bool:
    """libaio with its headers, against which DeepSpeed compiles for minutes."""
    return any(Path(folder, "libaio.h").exists() for folder in ("/usr/include", "/usr/local/include"))


class Launches:
    """Results of all cases: name → what worker 0 saw. Few processes, since each takes seconds to import DeepSpeed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: dict[str, dict[str, Any]] = {}
        self.cases: dict[str, Case] = {}

    def run(self, cases: list[Case], num_workers: int) -> None:
        out = self.folder / f"launch{len(self.seen)}"
        out.mkdir()
        (out / "cases.json").write_text(json.dumps([asdict(c) for c in cases]))
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        ranks = []
        for rank in range(num_workers):
            command = [sys.executable, SUPPORT / "zero_worker.py", out / "cases.json", rank, num_workers, port, out]
            with open(out / f"log{rank}", "w") as log:
                ranks.append(subprocess.Popen([str(c) for c in command], stdout=log, stderr=log, env=env))
        try:
            while any(p.poll() is None for p in ranks) and not any(p.poll() for p in ranks):
                time.sleep(0.2)  # until all are done or one has failed, for which the others would wait
            failed = [r for r, p in enumerate(ranks) if p.poll() not in (0, None)]
        finally:
            for process in ranks:
                process.kill()
        assert not failed, "\n".join((out / f"log{r}").read_text()[-3000:] for r in failed)
        self.seen |= torch.load(out / "rank0.pt", weights_only=True)
        self.cases |= {c.name: c for c in cases}

    def run_unbroken(self, cases: list[Case]) -> None:
        self.run(
            [
                replace(
                    c, save_to=str(self.folder / c.name),
                    pretrained=str(self.folder / c.pretrained) if c.pretrained else None,
                )
                for c in cases
            ],
            2,
        )  # fmt: skip

    def run_resumed(self, resumed: dict[int, list[tuple[str, int, str]]], alone: list[Case] | None = None) -> None:
        """`alone`: other cases for the launch with one worker."""
        for num_workers, cases in resumed.items():
            here = [
                replace(
                    self.cases[source], name=name, stage=stage, load_from=self.merged(source), start=HALF,
                    save_at=None, overflow_at=None, evaluate_at=[],
                )
                for name, stage, source in cases
            ]  # fmt: skip
            self.run([*(alone or []), *here] if num_workers == 1 else here, num_workers)

    def merged(self, name: str) -> str:
        """The files of all workers in one folder, as Ray Train leaves them; read-only."""
        target = self.folder / f"merged {name}"
        if not target.exists():
            for folder in (self.folder / name).iterdir():
                shutil.copytree(folder, target, dirs_exist_ok=True)
        return str(target)


@pytest.fixture(scope="module")
def launches(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Launches:
    everything = runs_thorough(request.config)
    runs = Launches(tmp_path_factory.mktemp("zero"))
    for shape in ("llama", "gpt_neox"):
        random_model(shape).save_pretrained(runs.folder / shape)
    runs.run_unbroken([c for c in UNBROKEN if everything or c.name in QUICK])
    for name, fields in (("llama", {}), ("neox", {"shape": "gpt_neox"}), ("lora", {"lora": True})):
        runs.seen[name] = run_case(Case(name, evaluate_at=[0, 3], **fields))
    if everything:
        runs.run_resumed(RESUMED, alone=[Case("alone", stage=2, save_at=HALF, save_to=str(runs.folder / "alone"))])
    else:
        runs.run_resumed({2: [case for case in RESUMED[2] if case[0] in QUICK]})
    return runs


@pytest.fixture(scope="module")
def offloaded(launches: Launches) -> Launches:
    """With DeepSpeed's optimiser for CPUs, which is compiled for minutes at its first use."""
    launches.run_unbroken(OFFLOADED)
    launches.run_resumed(RESUMED_OFFLOADED)
    return launches


@pytest.mark.parametrize("name", in_tiers(c.name for c in UNBROKEN if not in_bf16(c)))
def test_training_is_that_of_one_process_without_deepspeed(launches: Launches, name: str):
    """Losses, gradient norms and held-out losses, with clipping, several micro-batches and workers without work."""
    assert_trained_as_without_deepspeed(launches, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [c.name for c in OFFLOADED])
def test_offloaded_training_is_that_of_one_process_without_deepspeed(offloaded: Launches, name: str):
    assert_trained_as_without_deepspeed(offloaded, name)


def assert_trained_as_without_deepspeed(runs: Launches, name: str) -> None:
    ours, plain = runs.seen[name], runs.seen[reference_of(name)]
    np.testing.assert_allclose(ours["losses"], plain["losses"], atol=CLOSE)
    np.testing.assert_allclose(ours["norms"], plain["norms"], rtol=1e-3)
    for step, evaluation in ours["evaluations"].items():
        np.testing.assert_allclose(evaluation, plain["evaluations"][step], atol=CLOSE)
    assert max(plain["losses"][:3]) - min(plain["losses"][-3:]) > 0.5, "the loss must move for this to say anything"
    assert sum(n > 1.0 for n in plain["norms"]) >= 6, "gradients must be clipped for this to say anything"


@pytest.mark.thorough
def test_one_process_without_deepspeed_is_a_plain_loop(launches: Launches):
    case = Case("plain")
    model, config = random_model("llama"), config_of(case)
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0)
    losses = []
    for step in range(TOTAL_STEPS):
        examples = batch_of(step)
        total, count = torch.zeros(()), 0
        for start, end in zip(examples.offsets[:-1], examples.offsets[1:], strict=True):
            tokens = torch.from_numpy(examples.tokens[start:end].astype(np.int64))[None]
            labels = torch.where(torch.from_numpy(examples.mask[start:end])[None], tokens, -100)
            n = int((labels[:, 1:] != -100).sum())
            total, count = total + model(input_ids=tokens, labels=labels).loss * n, count + n
        (total / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, TOTAL_STEPS, case.learning_rate, config.warmup_share)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(total.detach()) / count)
    np.testing.assert_allclose(launches.seen["llama"]["losses"], losses, atol=CLOSE)


@pytest.mark.slow  # minutes of compiling
@pytest.mark.skipif(not has_nvme(), reason="DeepSpeed's offload to NVMe needs libaio-dev")
def test_states_on_nvme_train_the_same(offloaded: Launches):
    """On whatever disk is here; the checkpoint holds what is on it."""
    offloaded.run([replace(NVME, nvme_path=str(offloaded.folder), save_to=str(offloaded.folder / NVME.name))], 2)
    on_disk, in_memory = offloaded.seen[NVME.name], offloaded.seen["offload stage 3"]
    np.testing.assert_allclose(on_disk["losses"], in_memory["losses"], atol=1e-5)
    np.testing.assert_allclose(on_disk["evaluations"]["end"], in_memory["evaluations"]["end"], atol=1e-5)
    one, other = (Path(offloaded.merged(name)) for name in (NVME.name, "offload stage 3"))
    sizes = {
        n: t.numel()
        for n, t in in_memory["whole"].items()
        if n in json.loads((one / "zero.json").read_text())["parameters"]
    }
    first, second = Checkpoint(one, sizes), Checkpoint(other, sizes)
    for name in sizes:
        for kind in ("weight", "exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(first.part(name, kind), second.part(name, kind), atol=1e-5, rtol=0)


@pytest.mark.thorough
def test_gradients_sent_in_bf16_differ_only_by_rounding(launches: Launches):
    ours, plain = launches.seen["no stage, sent in bf16"], launches.seen["no stage"]
    np.testing.assert_allclose(ours["losses"], plain["losses"], atol=0.02)
    np.testing.assert_allclose(ours["norms"], plain["norms"], rtol=0.01)
    assert ours["norms"] != plain["norms"], "nothing was rounded"
    assert {t.dtype for t in ours["whole"].values()} == {torch.float32}


@pytest.mark.thorough
@pytest.mark.parametrize("name", [c.name for c in UNBROKEN if c.precision == "bf16"])
def test_bf16_training_is_near_that_of_fp32(launches: Launches, name: str):
    ours, plain = launches.seen[name], launches.seen["llama"]
    np.testing.assert_allclose(ours["losses"], plain["losses"], atol=0.1)
    assert {t.dtype for t in ours["whole"].values()} == {torch.bfloat16}


@pytest.mark.parametrize(("name", "source"), in_tiers(cases_of(RESUMED)))
def test_resumed_training_is_the_unbroken_one(launches: Launches, name: str, source: str):
    """On as many workers, on fewer, on more, and at another stage."""
    assert_resumed_as_unbroken(launches, name, source)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "source"), cases_of(RESUMED_OFFLOADED))
def test_resumed_offloaded_training_is_the_unbroken_one(offloaded: Launches, name: str, source: str):
    assert_resumed_as_unbroken(offloaded, name, source)


def assert_resumed_as_unbroken(runs: Launches, name: str, source: str) -> None:
    resumed, unbroken = runs.seen[name], runs.seen[source]
    np.testing.assert_allclose(resumed["losses"], unbroken["losses"][HALF:], atol=0.02 if "bf16" in name else CLOSE)
    np.testing.assert_allclose(resumed["evaluations"]["end"], unbroken["evaluations"]["end"], atol=0.02)
    if "bf16" not in name:
        for key, value in unbroken["whole"].items():
            torch.testing.assert_close(resumed["whole"][key], value, atol=CLOSE, rtol=0)


@pytest.mark.parametrize("name", in_tiers(["stage 1", "stage 2", "stage 3", "neox stage 3, built in shards"]))
def test_the_gathered_weights_load_into_a_plain_model(launches: Launches, name: str):
    shape = "gpt_neox" if reference_of(name) == "neox" else "llama"
    model = random_model(shape, seed=7)
    whole = launches.seen[name]["whole"]
    assert set(whole) == set(model.state_dict())
    model.load_state_dict(whole)
    wrapped = type("Wrapped", (), {"loss": ResponseLoss(model)})
    np.testing.assert_allclose(
        evaluate(wrapped, Batching(False, 0)), launches.seen[name]["evaluations"]["end"], atol=1e-5
    )
    if shape == "llama":  # tied
        assert torch.equal(whole["lm_head.weight"], whole["model.embed_tokens.weight"])


def test_an_update_with_an_infinite_gradient_is_not_made(launches: Launches):
    refused = {n: launches.seen[n]["overflow_refused"] for n, c in launches.cases.items() if c.overflow_at is not None}
    assert set(refused) >= {"stage 1", "stage 2", "stage 3"}
    assert all(refused.values()), refused


@pytest.mark.thorough
def test_checkpoints_hold_what_is_trained_and_refuse_another_model(launches: Launches):
    """The frozen weights under adapters are loaded anew."""
    folder = Path(launches.merged(LORA))
    names = json.loads((folder / "zero.json").read_text())["parameters"]
    assert names
    assert all("lora_" in n for n in names)
    sizes = {n: launches.seen[LORA]["whole"][n].numel() for n in names}
    assert Checkpoint(folder, sizes).step == HALF
    with pytest.raises(CheckpointMismatch, match="train different parameters"):
        Checkpoint(folder, dict(list(sizes.items())[1:]))
    with pytest.raises(CheckpointMismatch, match="it is of another model"):
        Checkpoint(folder, sizes | {names[0]: sizes[names[0]] + 1})
    with pytest.raises(CheckpointMismatch, match="files of a worker are missing"):
        Checkpoint(Path(str(launches.cases[LORA].save_to)) / "rank0", sizes)
    with pytest.raises(CheckpointMismatch, match="not a ZeRO checkpoint"):
        Checkpoint(launches.folder, sizes)
