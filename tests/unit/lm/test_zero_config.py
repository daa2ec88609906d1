"""DeepSpeed's configuration: what the section `target` makes, and a user's file merged into it. No DeepSpeed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from s2l_ray.config.target import TargetConfig
from s2l_ray.lm.zero_config import ZeroConfigError, make_zero_config


def target(**changes: Any) -> TargetConfig:
    settings: dict[str, Any] = {"model": "unused", "learning_rate": 1e-4, "global_batch_size": 64}
    return TargetConfig(**(settings | changes))


def merged(user: dict[str, Any], stage: int = 2, precision: Any = "bf16", **changes: Any) -> dict[str, Any]:
    """With 4 workers and clipping to 1."""
    return make_zero_config(target(**changes), stage, precision, 4, 1.0, user=user)


def test_what_we_set_and_what_a_user_adds():
    user = {
        "train_batch_size": "auto", "train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 2,
        "zero_optimization": {"stage": 3, "reduce_bucket_size": 1000, "stage3_prefetch_bucket_size": "auto",
                              "offload_param": {"device": "cpu", "pin_memory": False}},
        "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": [0.9, 0.999], "weight_decay": 0}},
        "scheduler": {"type": "WarmupCosineLR", "params": {"warmup_num_steps": "auto"}},
        "fp16": {"enabled": "auto", "loss_scale": 0}, "bf16": {"enabled": "auto"}, "wall_clock_breakdown": True,
    }  # fmt: skip
    config = merged(user, stage=3, offload_parameters="cpu")
    # The micro-batches are ours: DeepSpeed is told batches of 1.
    assert [config[k] for k in ("train_batch_size", "train_micro_batch_size_per_gpu")] == [4, 1]
    zero = config["zero_optimization"]
    assert zero["offload_param"] == {"device": "cpu", "pin_memory": False}
    assert (zero["stage"], zero["reduce_bucket_size"], zero["sub_group_size"]) == (3, 1000, 100_000_000)
    assert "stage3_prefetch_bucket_size" not in zero
    assert config["bf16"]["enabled"]
    assert config["wall_clock_breakdown"]
    assert not {"optimizer", "scheduler"} & set(config)
    assert user["zero_optimization"]["stage3_prefetch_bucket_size"] == "auto", "the user's own object is left alone"  # type: ignore[index]


def test_offload_to_nvme_names_its_folder():
    zero = merged({}, stage=3, offload_optimizer="nvme", nvme_path="/nvme")["zero_optimization"]
    assert zero["offload_optimizer"] == {"device": "nvme", "nvme_path": "/nvme"}


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ({"train_batch_size": 32}, r"train_batch_size=32 .*global_batch_size=64.*only the latter.*remove the key"),
        ({"train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 4}, "8 × .*=4 × 4 workers = 128 .*=64"),
        ({"train_micro_batch_size_per_gpu": 3}, r"=3 × gradient_accumulation_steps=any × 4 workers = 12 × …"),
        ({"gradient_accumulation_steps": "many"}, "'many' .*not a number"),
        ({"gradient_clipping": 0.5}, "gradient_clipping=0.5 .*, 1.0 by target.max_grad_norm"),
        ({"zero_optimization": {"stage": 3}}, "stage=3 .*, 2 by target.zero_stage.*memory was planned"),
        ({"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}, "device='cpu' .*'none' by target.offload"),
        ({"zero_optimization": {"cpu_offload": True}}, "cpu_offload .*old name"),
        ({"zero_optimization": True}, "not an object"),
        ({"bf16": {"enabled": False}}, "bf16.enabled=False .*True by target.precision"),
        ({"bfloat16": {"enabled": False}}, "bf16.enabled=False"),
        ({"fp16": {"enabled": True}}, "fp16=.*loss scaling.*remove the section"),
        ({"optimizer": {"type": "Lion"}}, "optimizer.type='Lion'.*AdamW"),
        ({"optimizer": {"type": "AdamW", "params": {"lr": 1e-3}}}, "lr=0.001 .*0.0001 here.*target.learning_rate"),
        ({"optimizer": {"type": "AdamW", "params": {"betas": [0.9, 0.95]}}}, "betas=.*fixed"),
        ({"optimizer": {"type": "AdamW", "params": {"nesterov": True}}}, "no such setting"),
        ({"scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": 10}}}, "scheduler=.*cosine to 0"),
        ({"elasticity": {"enabled": True}}, "elasticity=.*batch sizes of its own"),
        ({"tensor_parallel": {"autotp_size": 2}}, "tensor_parallel=.*averaged wrongly"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(user: dict[str, Any], message: str):
    with pytest.raises(ZeroConfigError, match=message):
        merged(user)


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        (4, {}, "stage 4 does not exist"),
        (1, {"offload_parameters": "cpu"}, "set target.zero_stage=3"),
        (2, {"offload_optimizer": "nvme", "nvme_path": "/nvme"}, "in the node's memory"),
        (3, {"compile": True}, "target.compile=false"),
    ],
)
def test_stages_that_do_not_fit_are_refused(stage: int, changes: dict[str, Any], message: str):
    with pytest.raises(ZeroConfigError, match=message):
        merged({}, stage=stage, **changes)


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot be read: No such file"), ("{", "is not JSON"), ("[]", "holds a list")]
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: str | None, message: str):
    path = tmp_path / "ds.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ZeroConfigError, match=message):
        make_zero_config(target(deepspeed_config=str(path)), 2, "fp32", 1, 1.0)
