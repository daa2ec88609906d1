"""Build the DeepSpeed configuration from the section `target`, with the user's JSON file merged in.

Keys: https://www.deepspeed.ai/docs/config-json/
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from s2l_ray.config.target import TargetConfig
from s2l_ray.errors import UserError

Precision = Literal["fp32", "bf16"]

BETAS, EPS = (0.9, 0.999), 1e-8
_AUTO = "auto"
_CURE = '; remove the key from the DeepSpeed file (or write "auto"), or change '

_OURS: dict[str, tuple[str, str]] = {
    "gradient_clipping": ("target.max_grad_norm", "gradients would be clipped to another norm"),
    "zero_optimization.stage": ("target.zero_stage", "memory was planned for another stage"),
    "zero_optimization.offload_optimizer.device": ("target.offload_optimizer", "its state would lie elsewhere"),
    "zero_optimization.offload_optimizer.nvme_path": ("target.nvme_path", "states would go to another folder"),
    "zero_optimization.offload_param.device": ("target.offload_parameters", "the parameters would lie elsewhere"),
    "zero_optimization.offload_param.nvme_path": ("target.nvme_path", "parameters would go to another folder"),
    "bf16.enabled": ("target.precision", "the weights would have another precision"),
}  # fmt: skip
"""Keys set by the section `target`: the setting, and the consequence of a contradiction."""

_REFUSED: dict[str, str] = {
    "fp16": "fp16 needs loss scaling, which skips steps; use target.precision=bf16 or fp32",
    "amp": "apex mixed precision is not supported; use target.precision=bf16 or fp32",
    "torch_autocast": "the weights themselves are bf16 or fp32; use target.precision",
    "elasticity": "it would choose batch sizes of its own; set target.global_batch_size",
    "tensor_parallel": "every worker is taken for a data-parallel one, gradients would be averaged wrongly",
    "sequence_parallel_size": "every worker is taken for a data-parallel one, gradients would be averaged wrongly",
    "pipeline": "every worker is taken for a data-parallel one, gradients would be averaged wrongly",
    "curriculum_learning": "it would change the data; the subset is the curriculum here",
    "data_efficiency": "it would change the data; the subset is what is trained on",
    "managed_gradient_accumulation": "micro-batches are counted by this program",
    "checkpoint": "checkpoints are written by this program",
}
"""Sections that are not supported, unless they are switched off."""
_NEED_NO_SWITCH = ("tensor_parallel", "pipeline", "checkpoint")
"""Sections without `enabled`."""
_HARMLESS: dict[str, Any] = {"managed_gradient_accumulation": True, "sequence_parallel_size": 1}


class ZeroConfigError(UserError):
    """Error for a DeepSpeed file that cannot be used or contradicts the section `target`; names key and remedy."""


def make_zero_config(
    config: TargetConfig,
    stage: int,
    precision: Precision,
    num_workers: int,
    gradient_clipping: float,
    user: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the dictionary for `deepspeed.initialize`.

    Args:
        user: content of `target.deepspeed_config`, if it has already been read; None: it is read here.

    Raises:
        ZeroConfigError: the user's file cannot be read or contradicts `config`, or stage and offload do not fit
            together.
    """
    if stage not in (1, 2, 3):
        raise ZeroConfigError(f"ZeRO stage {stage} does not exist; use 1, 2 or 3, or 0 for PyTorch without DeepSpeed")
    if config.offload_parameters != "none" and stage != 3:
        raise ZeroConfigError(
            f"target.offload_parameters={config.offload_parameters} needs sharded parameters, which ZeRO stage {stage} "
            "does not have; set target.zero_stage=3"
        )
    if config.offload_optimizer == "nvme" and stage != 3:
        raise ZeroConfigError(
            f"target.offload_optimizer=nvme with ZeRO stage {stage}: DeepSpeed would keep the states in the node's "
            "memory; set target.zero_stage=3, or target.offload_optimizer=cpu"
        )
    if config.compile and stage == 3:
        raise ZeroConfigError(
            "target.compile with ZeRO stage 3: weights are fetched in hooks that break the compiled graph into pieces; "
            "set target.compile=false, or target.zero_stage=2"
        )
    ours = _fixed(config, stage, precision, num_workers, gradient_clipping)
    if user is None and config.deepspeed_config is not None:
        user = read_user_config(config.deepspeed_config)
    user = _without_auto(user or {})
    _check_batch(user, config, num_workers)
    _check_optimizer(user, config)
    _check_refused(user)
    _check_contradictions(user, ours)
    return _merge(_merge(_defaults(config, stage, precision), user), ours)


def read_user_config(path: str | Path) -> dict[str, Any]:
    """Read the user's DeepSpeed JSON.

    Raises:
        ZeroConfigError: the file is missing, or not a JSON object.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ZeroConfigError(f"target.deepspeed_config={str(path)!r} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ZeroConfigError(f"target.deepspeed_config={str(path)!r} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ZeroConfigError(f"target.deepspeed_config={str(path)!r} holds a {type(content).__name__}, not an object")
    return content


def _fixed(
    config: TargetConfig, stage: int, precision: str, num_workers: int, gradient_clipping: float
) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": stage}
    for key, where in (("offload_optimizer", config.offload_optimizer), ("offload_param", config.offload_parameters)):
        if where != "none":
            zero[key] = {"device": where} | ({"nvme_path": config.nvme_path} if where == "nvme" else {})
    return {
        # Micro-batches are limited by tokens, so their number varies from step to step. DeepSpeed is given the smallest
        # batch, so that it does not divide the loss, and the step itself says which micro-batch is the last.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "train_batch_size": num_workers,
        "gradient_clipping": gradient_clipping,
        "zero_optimization": zero,
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {"enabled": False},
    }


def _defaults(config: TargetConfig, stage: int, precision: str) -> dict[str, Any]:
    """Return settings that a user's file may change."""
    # overlap_comm stays off for stages 1 and 2: until the middle of 2026 it could read buckets that were not yet filled
    # (NaN losses with compiled layers, DeepSpeed #8061), and it has not been tried here on several GPUs.
    zero: dict[str, Any] = {
        # Elements sent at once. DeepSpeed's default of 5e8 needs 2 GB of buffers (fp32) for little more speed.
        "reduce_bucket_size": 50_000_000,
        "allgather_bucket_size": 50_000_000,
        # Elements whose gradients are in fp32 at once in an update; DeepSpeed's default of 1e9 needs 4 GB.
        "sub_group_size": 100_000_000,
    }
    defaults: dict[str, Any] = {"zero_optimization": zero}
    if precision == "bf16":
        # bf16 sums of many micro-batches lose the small ones.
        defaults["data_types"] = {"grad_accum_dtype": "fp32"}
        defaults["bf16"] = {"check_grad_overflow": True}
    return defaults


def _without_auto(node: dict[str, Any]) -> dict[str, Any]:
    """Remove values of `auto`, as used in Hugging Face's files, which set nothing."""
    cleaned = {k: _without_auto(v) if isinstance(v, dict) else v for k, v in node.items() if v != _AUTO}
    return {k: v for k, v in cleaned.items() if v != {} or node[k] == {}}


def _check_batch(user: dict[str, Any], config: TargetConfig, num_workers: int) -> None:
    """Check the batch sizes and remove them from `user`, because DeepSpeed itself is given other numbers."""
    names = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    total, micro, steps = (user.pop(n, None) for n in names)
    for name, value in zip(names, (total, micro, steps), strict=True):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ZeroConfigError(f"{name}={value!r} in the DeepSpeed file is not a number of examples; remove it")
    batch = config.global_batch_size
    cure = f"{_CURE}target.global_batch_size"
    if total is not None and total != batch:
        raise ZeroConfigError(
            f"train_batch_size={total} in the DeepSpeed file, but target.global_batch_size={batch}: only the latter "
            f"would be used{cure}"
        )
    known = (micro or 1) * (steps or 1) * num_workers
    fits = known == batch if micro is not None and steps is not None else batch % known == 0
    if not fits:
        raise ZeroConfigError(
            f"train_micro_batch_size_per_gpu={micro or 'any'} × gradient_accumulation_steps={steps or 'any'} × "
            f"{num_workers} workers = {known}{'' if micro and steps else ' × …'} in the DeepSpeed file is not "
            f"target.global_batch_size={batch}, which is what would be trained with{cure}"
        )


def _check_optimizer(user: dict[str, Any], config: TargetConfig) -> None:
    """Check optimiser and schedule and remove them from `user`, because s2l_ray sets them itself."""
    optimizer, scheduler = user.pop("optimizer", None), user.pop("scheduler", None)
    for name, section in (("optimizer", optimizer), ("scheduler", scheduler)):
        if section is not None and not (isinstance(section, dict) and isinstance(section.get("params", {}), dict)):
            raise ZeroConfigError(f"{name}={section!r} in the DeepSpeed file is not an object with type and params")
    kind = str((optimizer or {}).get("type", "AdamW"))
    if kind.lower() != "adamw":
        raise ZeroConfigError(
            f"optimizer.type={kind!r} in the DeepSpeed file: targets are trained with AdamW, so this would be ignored; "
            "write AdamW, or remove the section"
        )
    ours = {
        "lr": (config.learning_rate, "target.learning_rate"), "betas": (list(BETAS), "nothing: they are fixed"),
        "eps": (EPS, "nothing: it is fixed"), "weight_decay": (config.weight_decay, "target.weight_decay"),
        "torch_adam": (True, "nothing"), "adam_w_mode": (True, "nothing"),
    }  # fmt: skip
    for name, value in (optimizer or {}).get("params", {}).items():
        expected, where = ours.get(name, (None, "nothing: there is no such setting here"))
        if not _equal(value, expected):
            raise ZeroConfigError(
                f"optimizer.params.{name}={value!r} in the DeepSpeed file, {expected!r} here: the optimiser would not "
                f"be the one you described{_CURE}{where}"
            )
    settings = (scheduler or {}).get("params", {}) or {k: v for k, v in (scheduler or {}).items() if k != "params"}
    if settings and settings != {"type": "WarmupCosineLR"}:
        raise ZeroConfigError(
            f"scheduler={scheduler!r} in the DeepSpeed file: the schedule is linear warm-up over target.warmup_share "
            f"({config.warmup_share}) of the steps and then a cosine to 0, so this would be ignored; remove it"
        )


def _check_refused(user: dict[str, Any]) -> None:
    if "bfloat16" in user:  # DeepSpeed's older name
        user["bf16"] = user.pop("bfloat16")
    for key, why in _REFUSED.items():
        value = user.pop(key, None)
        on = value not in (None, _HARMLESS.get(key, False))
        if isinstance(value, dict):
            on = value.get("enabled", key in _NEED_NO_SWITCH and value != {})
        if on:
            raise ZeroConfigError(f"{key}={value!r} in the DeepSpeed file is not supported: {why}; remove the section")
    zero = user.get("zero_optimization", {})
    if not isinstance(zero, dict):
        raise ZeroConfigError(
            f"zero_optimization={zero!r} in the DeepSpeed file is not an object; write {{}} or remove it"
        )
    for key in ("cpu_offload", "cpu_offload_param", "cpu_offload_params"):
        if zero.pop(key, False):
            raise ZeroConfigError(
                f"zero_optimization.{key} in the DeepSpeed file is the old name of offload; remove it and set "
                "target.offload_optimizer=cpu or target.offload_parameters=cpu"
            )


def _check_contradictions(user: dict[str, Any], ours: dict[str, Any]) -> None:
    for key, (where, consequence) in _OURS.items():
        theirs, own = _find(user, key), _find(ours, key)
        if key.endswith(".device"):
            theirs, own = theirs and str(theirs).lower(), own or "none"
        if theirs is not None and not _equal(theirs, own):
            raise ZeroConfigError(
                f"{key}={theirs!r} in the DeepSpeed file, {own!r} by {where}: {consequence}{_CURE}{where}"
            )


def _find(tree: dict[str, Any], dotted: str) -> Any:
    node: Any = tree
    for name in dotted.split("."):
        node = node.get(name) if isinstance(node, dict) else None
    return node


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (a, b))
    return abs(a - b) <= 1e-12 * max(abs(a), abs(b)) if numbers else bool(a == b)


def _merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Merge nested dictionaries; `over` takes precedence."""
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
