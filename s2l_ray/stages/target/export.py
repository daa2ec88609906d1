"""Exports the fine-tuned target as a Hugging Face folder: safetensors, tokenizer, generation config, model card.

Memory: with ZeRO, worker 0 gathers the weights one by one into files in `TMPDIR` (2 bytes per parameter in bf16, 4 in
fp32, and the same again for the folder); while merging adapters, it holds a whole model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from s2l_ray.lm.adapters import add_adapters
from s2l_ray.lm.load import load_model
from s2l_ray.lm.worker import WorkerContext
from s2l_ray.stages.target.job import TargetJob
from s2l_ray.stages.target.model import TargetModel
from s2l_ray.storage.scratch import scratch_folder

Weights = dict[str, torch.Tensor]


def export(job: TargetJob, worker: WorkerContext, built: TargetModel, name: str = "model") -> None:
    """Write the model to the folder `name` of the stage. Every worker must call this, because sharded weights are
    gathered."""
    weights = built.engine.whole_weights()
    if worker.rank == 0:
        assert weights is not None
        with scratch_folder() as scratch:
            folder = str(scratch)
            if job.target.lora is None:
                built.model.save_pretrained(folder, state_dict=weights, max_shard_size=job.target.max_shard_size)
            else:
                _save_adapted(job, weights, folder)
            job.tokenizer.save_pretrained(folder)
            Path(folder, "README.md").write_text(job.card, encoding="utf-8")
            model = job.out.sub(name)
            model.delete_dir()  # earlier best weights may have had other files
            model.upload_folder(Path(folder))
    worker.all_gather(None)


def _save_adapted(job: TargetJob, weights: Weights, folder: str) -> None:
    """Save a target with adapters from a whole copy of the base model: merging needs all of a layer's weights in one
    place."""
    import peft

    assert job.target.lora is not None
    base = load_model(job.target, job.tokenizer, job.seed, next(iter(weights.values())).dtype)
    wrapped: Any = add_adapters(base, job.target.lora, job.seed)
    wrapped.get_base_model().load_state_dict(weights)
    if job.target.lora.export == "adapter":
        wrapped.save_pretrained(folder, state_dict=peft.get_peft_model_state_dict(wrapped))
        return
    wrapped.merge_and_unload().save_pretrained(folder, max_shard_size=job.target.max_shard_size)
