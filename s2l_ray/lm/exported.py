"""Models for inference: an exported target, including adapters, or any other causal language model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from s2l_ray.config.model import TrainedModelConfig
from s2l_ray.config.target import TargetConfig
from s2l_ray.lm.checks import foreign_refused
from s2l_ray.lm.load import load_model, load_model_config, load_tokenizer
from s2l_ray.lm.vocabulary import num_token_ids
from s2l_ray.storage.folder import Storage
from s2l_ray.storage.scratch import scratch_folder

ADAPTER = "adapter_config.json"
"""File whose presence in a model's folder shows that it contains adapters."""

TrainedConfig = TypeVar("TrainedConfig", bound=TrainedModelConfig)


@dataclass(frozen=True)
class ModelSource:
    """Location from which a model is loaded; the same for all workers."""

    config: TargetConfig
    """The model that was fine-tuned, or that is used as it is."""
    exported: Storage | None = None
    """Folder of the fine-tuned model; None: the model of `config` itself."""
    seed: int = 0
    """Seed of random weights."""

    def load_tokenizer(self) -> Any:
        """Load the tokenizer.

        Raises:
            ModelError: it cannot be loaded.
        """
        if self.exported is None:
            return load_tokenizer(self.config)
        with _local(self.exported, without_weights=True) as folder:
            return load_tokenizer(self._at(folder))

    def load_config(self) -> Any:
        """Load the `transformers` config, without weights.

        Raises:
            ModelError: it cannot be loaded.
        """
        if self.exported is None:
            vocab = num_token_ids(self.load_tokenizer()) if self.config.from_config is not None else None
            return load_model_config(self.config, vocab_size=vocab)
        with _local(self.exported, without_weights=True) as folder:
            adapted = Path(folder, ADAPTER).exists()
            return load_model_config(self.config if adapted else self._at(folder))

    def load(self, tokenizer: Any, dtype: Any) -> Any:
        """Load the model on the CPU, in evaluation mode.

        Raises:
            ModelError: it cannot be loaded, or lacks weights.
        """
        if self.exported is None:
            return load_model(self.config, tokenizer, self.seed, dtype).eval()
        with _local(self.exported) as folder:
            return load_exported(self.config, folder, tokenizer, self.seed, dtype, self.exported.uri).eval()

    def _at(self, folder: Path) -> TargetConfig:
        return _lying_in(self.config, folder)


def load_exported(
    config: TrainedModelConfig, folder: Path, tokenizer: Any, seed: int, dtype: Any = None, uri: str = ""
) -> Any:
    """Load a trained model from a local folder, merging adapters into the model of `config`.

    Args:
        dtype: data type of the weights; None: fp32.
        uri: URI of the folder, for messages; "": its path.

    Raises:
        ModelError: it cannot be loaded, or lacks weights.
    """
    if not Path(folder, ADAPTER).exists():
        return load_model(_lying_in(config, folder), tokenizer, seed, dtype)
    import peft

    base = load_model(config, tokenizer, seed, dtype)
    with foreign_refused(f"the adapters in {uri or folder} cannot be loaded", "Fine-tune the target again"):
        wrapped: Any = peft.PeftModel.from_pretrained(base, str(folder))
        return wrapped.merge_and_unload()


def load_kept(config: TrainedModelConfig, storage: Storage, names: Sequence[str], tokenizer: Any, seed: int) -> Any:
    """Load a model from kept weights, in fp32, merging adapters into the model of `config`.

    Args:
        names: files of the weights in `storage`; none: the weights with which training begins.
        seed: seed of random weights.

    Raises:
        ModelError: it cannot be loaded, or lacks weights.
    """
    if not names:
        return load_model(config, tokenizer, seed)
    with scratch_folder() as folder:
        for name in names:
            storage.copy_to(folder / name.rsplit("/", 1)[1], name)
        return load_exported(config, folder, tokenizer, seed)


def _lying_in(config: TrainedConfig, folder: Path) -> TrainedConfig:
    """Return the configuration of a model that is complete in a folder."""
    update: dict[str, Any] = {
        "model": str(folder), "revision": None, "gguf_file": None, "from_config": None, "random_weights": False,
        "tokenizer": None, "train_tokenizer": None,
    }  # fmt: skip
    return config.model_copy(update=update | ({"lora": None} if isinstance(config, TargetConfig) else {}))


@contextlib.contextmanager
def _local(storage: Storage, without_weights: bool = False) -> Iterator[Path]:
    """Yield a local folder with the files: their own folder, or a copy that is deleted after the block.

    Raises:
        DamagedFile: one of the files is not what was written.
    """
    names = [entry.name for entry in storage.list() if not (without_weights and entry.name.endswith(".safetensors"))]
    if storage.is_local:
        for name in names:
            storage.check(name)
        yield storage.local_path()
        return
    with scratch_folder() as folder:
        for name in names:
            storage.copy_to(folder / name, name)
        yield folder
