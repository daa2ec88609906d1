"""What a target needs in memory, which ZeRO stage fits, and what is said when none does. No Ray, no weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from s2l_ray.config import load_config
from s2l_ray.config.target import TargetConfig
from s2l_ray.lm import sharding as sharding_module
from s2l_ray.lm.load import ModelError, train_tokenizer
from s2l_ray.lm.memory import ModelSizes, estimate_memory, meta_model
from s2l_ray.lm.sharding import InsufficientMemoryError, Sharding, WorkerMemory, choose_sharding
from s2l_ray.testing.tiny import SHAPES, random_model
from s2l_ray.workflow.preflight import preflight

BILLION = ModelSizes(
    num_parameters=10**9, num_trained=10**9, num_layers=20, hidden_size=2048, intermediate_size=5632,
    vocab_size=32_000, largest_layer=65_536_000,
)  # fmt: skip
GB = 1e9


def target(**changes: Any) -> TargetConfig:
    settings = {"model": "unused", "max_length": 512, "tokens_per_microbatch": 2048, **changes}
    return TargetConfig.model_validate(settings)


def choose(
    device_gb: float, host_gb: float | None = None, workers: int = 8, on_gpu: bool = True, **changes: Any
) -> Sharding:
    memory = WorkerMemory(device_gb * GB, None if host_gb is None else host_gb * GB)
    return choose_sharding(BILLION, target(**changes), workers, "bf16" if on_gpu else "fp32", on_gpu, memory)


# --- the arithmetic --------------------------------------------------------------------------------------------------


def test_plain_adamw_in_fp32_is_sixteen_bytes_a_parameter():
    device = estimate_memory(BILLION, target(), 0, 1, "fp32", on_gpu=True).device
    assert device["weights"] + device["gradients"] + device["optimiser"] == 16 * GB


def test_zero_states_are_those_of_the_paper():
    """Table 1 of https://arxiv.org/abs/1910.02054 with Ψ = 1e9, N = 8, K = 12; gradients add up in fp32, 4 bytes."""
    parts = {s: estimate_memory(BILLION, target(), s, 8, "bf16", on_gpu=True).device for s in (1, 2, 3)}
    states = {s: sum(p[n] for n in ("weights", "gradients", "optimiser")) for s, p in parts.items()}
    assert states == {1: (2 + 4 + 12 / 8) * GB, 2: (2 + (4 + 12) / 8) * GB, 3: (18 / 8) * GB}


def test_frozen_weights_need_neither_gradients_nor_an_optimiser():
    adapted = ModelSizes(**{**vars(BILLION), "num_trained": 10**7})
    device = estimate_memory(adapted, target(lora={}), 0, 1, "fp32", on_gpu=True).device
    assert (device["weights"], device["gradients"], device["optimiser"]) == (4 * GB, 0.04 * GB, 0.08 * GB)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_gradient_checkpointing_and_smaller_microbatches_need_less(stage: int):
    def activations(**changes: Any) -> float:
        return estimate_memory(BILLION, target(**changes), stage, 2, "bf16", on_gpu=True).device["activations"]

    assert activations(gradient_checkpointing=True) < activations() / 2  # the head's logits stay
    assert activations(tokens_per_microbatch=1024) < activations() < activations(tokens_per_microbatch=4096)


def test_offload_moves_states_to_the_node_and_nvme_takes_most_of_them_away():
    def of(**changes: Any) -> Any:
        return estimate_memory(BILLION, target(zero_stage=3, **changes), 3, 4, "bf16", on_gpu=True)

    both = {"offload_optimizer": "cpu", "offload_parameters": "cpu"}
    nvme = {"offload_optimizer": "nvme", "offload_parameters": "nvme", "nvme_path": "/nvme"}
    assert of().host_bytes == 0
    assert of(**both).host_bytes == (12 + 4 + 2) / 4 * GB
    assert of(**both).device_bytes + of(**both).host_bytes == pytest.approx(of().device_bytes)
    sums = 4 / 4 * GB
    assert of(**nvme).host_bytes - sums == pytest.approx((of(**both).host_bytes - sums) / 10)
    on_cpus = estimate_memory(BILLION, target(zero_stage=3, **both), 3, 4, "fp32", on_gpu=False)
    assert on_cpus.host_bytes == 0, "on CPUs the worker's memory is its node's"
    assert on_cpus.device_bytes > 18 / 4 * GB


def test_gradients_may_add_up_in_bf16_by_a_file_of_the_users(tmp_path: Path):
    """Then DeepSpeed needs its second copy of them, in fp32."""
    own = tmp_path / "ds.json"
    own.write_text('{"data_types": {"grad_accum_dtype": "bf16"}}')
    settings: dict[str, Any] = {"zero_stage": 3, "deepspeed_config": str(own)}
    assert estimate_memory(BILLION, target(**settings), 3, 4, "bf16", on_gpu=True).device["gradients"] == 2 / 4 * GB
    host = estimate_memory(BILLION, target(offload_optimizer="cpu", **settings), 3, 4, "bf16", on_gpu=True).host
    assert (host["gradients"], host["gradients beside it"]) == (2 / 4 * GB, 4 / 4 * GB)


def test_an_estimate_says_its_parts_largest_first():
    said = estimate_memory(BILLION, target(), 0, 1, "fp32", on_gpu=True).describe()
    assert said.startswith("2")
    assert said.index("optimiser 8.0") < said.index("weights 4.0")


# --- which stage -----------------------------------------------------------------------------------------------------


@pytest.fixture
def with_deepspeed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("deepspeed")


@pytest.mark.usefixtures("with_deepspeed")
def test_auto_takes_the_lowest_stage_that_fits():
    """Just enough for each stage, and just too little."""
    need = {s: estimate_memory(BILLION, target(), s, 8, "bf16", on_gpu=True).device_bytes / GB for s in (0, 1, 2, 3)}
    assert need[0] > need[1] > need[2]
    for stage in (0, 1, 2):
        assert choose(need[stage] / 0.89).stage == stage
        assert choose(need[stage] / 0.91).stage > stage
    assert choose(1000).config is None
    assert choose(need[1] / 0.89).config["zero_optimization"]["stage"] == 1  # type: ignore[index]


@pytest.mark.usefixtures("with_deepspeed")
def test_auto_passes_over_stages_that_cannot_have_what_is_asked(tmp_path: Path):
    assert choose(1000, 1000, offload_optimizer="cpu").stage == 1
    assert choose(1000, 1000, offload_parameters="cpu").stage == 3
    own = tmp_path / "ds.json"
    own.write_text("{}")
    assert choose(1000, deepspeed_config=str(own)).stage == 1


def test_without_deepspeed_auto_is_pytorch_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sharding_module.importlib.util, "find_spec", lambda name: None)
    assert choose(1000).stage == 0
    with pytest.raises(
        InsufficientMemoryError, match=r"target\.zero_stage=3, with pip install \"s2l_ray\[target\]\" \(then \d+% full"
    ):
        choose(8)


def test_a_stage_that_was_asked_for_is_taken_or_refused():
    assert choose(1000, zero_stage=0).stage == 0
    with pytest.raises(InsufficientMemoryError, match=r"with plain PyTorch on 8 workers, but a worker has 6\.0 GB"):
        choose(6, zero_stage=0)


@pytest.mark.usefixtures("with_deepspeed")
def test_what_fits_barely_is_tried_with_a_warning():
    need = estimate_memory(BILLION, target(), 3, 8, "bf16", on_gpu=True).device_bytes / GB
    sharding = choose(need / 1.1, zero_stage=3)
    assert "memory will be tight" in sharding.warnings[0]
    assert "110% of what a worker has" in sharding.warnings[0]
    assert not choose(need / 0.8, zero_stage=3).warnings


@pytest.mark.usefixtures("with_deepspeed")
def test_a_refusal_says_the_need_what_there_is_and_cures_that_are_some():
    with pytest.raises(InsufficientMemoryError) as refused:
        choose(2)
    said = str(refused.value)
    for piece in ("needs about", "GB per worker (", "with ZeRO-3 on 8 workers", "a worker has 2.0 GB of its own",
                  "training would run out of memory", "What would help", "resources.target.workers=16",
                  "target.offload_optimizer=cpu", "target.gradient_checkpointing=true"):  # fmt: skip
        assert piece in said, said
    with pytest.raises(InsufficientMemoryError) as refused:
        choose(1, 1000, offload_optimizer="cpu", offload_parameters="cpu", gradient_checkpointing=True, lora={})
    for useless in ("offload", "gradient_checkpointing", "lora", "zero_stage="):
        assert useless not in str(refused.value).split("What would help")[1]


@pytest.mark.usefixtures("with_deepspeed")
def test_a_single_worker_is_not_told_to_shard_over_itself_nor_cpus_to_offload_to_themselves():
    with pytest.raises(InsufficientMemoryError) as refused:
        choose(8, workers=1, on_gpu=False)
    cures = str(refused.value).split("What would help")[1]
    assert "zero_stage" not in cures
    assert "=cpu" not in cures
    assert "target.lora.rank=16" in cures
    assert "workers with more memory" in cures


@pytest.mark.usefixtures("with_deepspeed")
def test_the_nodes_memory_counts_too():
    settings: dict[str, Any] = {"zero_stage": 3, "offload_optimizer": "cpu"}
    assert choose(1000, 10, **settings).stage == 3
    with pytest.raises(InsufficientMemoryError, match=r"1\.0 GB of its node's"):
        choose(1000, 1, **settings)
    assert choose(1000, zero_stage=1).describe().startswith("ZeRO-1, about ")
    assert choose(1000, zero_stage=1).environment("cpu") == {"DS_ACCELERATOR": "cpu"}
    assert choose(1000).environment("cpu") == choose(1000, zero_stage=1).environment("gpu") == {}


# --- the model before it is loaded -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 128 positions and 300 embeddings."""
    folder = tmp_path_factory.mktemp("model")
    random_model("llama").save_pretrained(folder)
    train_tokenizer(iter(["a few words"]), 280).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_sizes_are_the_models_own_and_need_no_memory(shape: str):
    settings = {"from_config": SHAPES[shape], "train_tokenizer": {"vocab_size": 300}, "max_length": 64, "model": None}
    meta, real = meta_model(target(**settings)), random_model(shape)
    sizes = ModelSizes.of(meta)
    assert {p.device.type for p in meta.parameters()} == {"meta"}
    assert sizes.num_parameters == sizes.num_trained == sum(p.numel() for p in real.parameters())
    assert (sizes.num_layers, sizes.hidden_size, sizes.vocab_size) == (2, 32, 300)
    assert sizes.largest_layer == 300 * 32


def test_adapters_count_as_trained_and_the_base_does_not(saved: Path):
    sizes = ModelSizes.of(meta_model(target(model=str(saved), max_length=64, lora={"rank": 2})))
    real = sum(p.numel() for p in random_model("llama").parameters())
    assert 0 < sizes.num_trained == sizes.num_parameters - real


PROXY = {"from_config": SHAPES["llama"], "train_tokenizer": {"vocab_size": 300}, "max_length": 64}


@pytest.mark.parametrize(
    ("changes", "pieces"),
    [
        ({"max_length": 129}, ["target.max_length=129", "the model's 128 positions", "set target.max_length=128 or"]),
        ({"model": "no/such-model"}, ["'no/such-model' cannot be loaded, so the target cannot be trained", "spelling"]),
        ({"tokenizer": "FOREIGN"}, ["has 300 embeddings, but none for the token", "remove target.tokenizer"]),
    ],
)
def test_models_that_cannot_be_had_are_refused_before_anything_is_loaded(
    saved: Path, tmp_path: Path, changes: dict[str, Any], pieces: list[str]
):
    if changes.get("tokenizer") == "FOREIGN":
        words = (f"{a}{b}{c}" for a in "abcdef" for b in "ghijkl" for c in "mnopqr")
        foreign = train_tokenizer(words, 400)
        foreign.eos_token = foreign.convert_ids_to_tokens(399)
        foreign.save_pretrained(tmp_path)
        changes = {"tokenizer": str(tmp_path)}
    settings = {"model": str(saved), "max_length": 64, **changes}
    tree = {"corpus": {"quickstart": {}}, "proxy": PROXY, "target": settings}
    with pytest.raises(ModelError) as refused:
        preflight(load_config(tree))
    for piece in pieces:
        assert piece in str(refused.value)


def test_adapters_for_layers_that_are_not_there_are_refused(saved: Path):
    with pytest.raises(ModelError, match=r"target\.lora\.target_modules=\['elsewhere'\] cannot be used"):
        meta_model(target(model=str(saved), max_length=64, lora={"target_modules": ["elsewhere"]}))
