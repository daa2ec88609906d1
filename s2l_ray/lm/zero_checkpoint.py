"""Checkpoints of ZeRO training that any stage and any number of workers can load. Plain torch, no DeepSpeed.

DeepSpeed's own checkpoints contain one pickle per worker. Loading them can run code (`weights_only=False`); with a
different number of workers, each node must first convert them into a second copy ("universal checkpoint"); and frozen
weights (LoRA) are written, too. Here, each trained parameter is written whole, as fp32 weight and Adam's two moments,
to safetensors, which cannot run code. Cost: 12 bytes per trained parameter are sent once over the network; the workers
share the writing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from s2l_ray.errors import DataError

WEIGHT = "weight"
MOMENTS = ("exp_avg", "exp_avg_sq")
FILE_BYTES = 2**30
"""Amount that a worker keeps in memory before it writes a file (bytes)."""
_INDEX = "zero.json"


class CheckpointMismatch(DataError):
    """Error for a checkpoint that is incomplete, or belongs to another model."""


def write_checkpoint(
    folder: Path, names: Iterable[str], whole: Callable[[str, str], Tensor], step: int, stage: int
) -> None:
    """Write a checkpoint; every worker must call this with the same names in the same order, and writes its share.

    Args:
        folder: folder local to the worker; files of different workers have different names.
        whole: returns the whole fp32 tensor for (name, kind); all workers call it together.
        step: Adam's count of updates.
        stage: ZeRO stage of the training.
    """
    # A single worker in plain PyTorch has no process group.
    rank, num_workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    names = list(names)
    pending: dict[str, Tensor] = {}
    num_files = 0
    for i, name in enumerate(names):
        for kind in (WEIGHT, *MOMENTS):
            tensor = whole(name, kind)
            if i % num_workers == rank:
                pending[f"{kind}/{name}"] = tensor.detach().flatten().float().to("cpu", copy=True)
        if sum(t.nbytes for t in pending.values()) >= FILE_BYTES:
            num_files = _write(folder, rank, num_files, pending)
    _write(folder, rank, num_files, pending)
    if rank == 0:
        index = {"format": 1, "step": step, "stage": stage, "num_workers": num_workers, "parameters": names}
        (folder / _INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")


def _write(folder: Path, rank: int, num_files: int, pending: dict[str, Tensor]) -> int:
    from safetensors.torch import save_file

    if pending:
        save_file(pending, folder / f"zero-{rank:05d}-{num_files:05d}.safetensors")
    pending.clear()
    return num_files + 1


class Checkpoint:
    """Flat tensors of a checkpoint, from a folder with the files of all workers. Files are mapped, not read.

    Raises:
        CheckpointMismatch: files are missing, or the parameters are not those of `num_elements` (name → size).
    """

    def __init__(self, folder: Path, num_elements: Mapping[str, int]) -> None:
        from safetensors import safe_open

        self.folder = folder
        self._file_of: dict[str, Any] = {}
        try:
            index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointMismatch(
                f"{folder / _INDEX} cannot be read, this is not a ZeRO checkpoint: {error}"
            ) from error
        self.step: int = index["step"]
        odd = sorted(set(index["parameters"]) ^ set(num_elements))
        if odd:
            raise CheckpointMismatch(
                f"{folder} and the model train different parameters ({len(odd)}, one is {odd[0]}): the checkpoint is "
                "from another model or LoRA setting; use the settings it was written with, or train from scratch"
            )
        for path in sorted(folder.glob("zero-*.safetensors")):
            file = safe_open(path, framework="pt")
            self._file_of |= dict.fromkeys(file.keys(), file)
        for name, size in num_elements.items():
            self._check(name, size)

    def _check(self, name: str, size: int) -> None:
        for key in (f"{kind}/{name}" for kind in (WEIGHT, *MOMENTS)):
            if key not in self._file_of:
                raise CheckpointMismatch(
                    f"{self.folder} lacks {key}: the files of a worker are missing; use an older checkpoint"
                )
            [found] = self._file_of[key].get_slice(key).get_shape()
            if found != size:
                raise CheckpointMismatch(
                    f"{key} in {self.folder} has {found} elements, the model's {size}: it is of another model"
                )

    def part(self, name: str, kind: str, start: int = 0, end: int | None = None) -> Tensor:
        """Return the elements from start to end, flat, fp32."""
        key = f"{kind}/{name}"
        return self._file_of[key].get_slice(key)[start:end]
