"""What a bug report needs: versions, hardware, and how Ray would be reached. Starts nothing and reveals no secrets."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from typing import Any

from s2l_ray.execution.placement import host_memory_bytes, local_cores
from s2l_ray.text.redact import redact_text, strip_credentials

_PACKAGES = (
    "ray", "torch", "transformers", "datasets", "tokenizers", "safetensors", "huggingface_hub", "pyarrow", "numpy",
    "pydantic", "faiss-cpu", "faiss-gpu", "deepspeed", "peft", "optuna", "altair", "vl-convert-python", "math-verify",
    "tensorboard", "wandb", "mlflow-skinny",
)  # fmt: skip
_VARIABLES = (
    "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "HF_HOME",
    "OMP_NUM_THREADS",
)  # fmt: skip
"""Environment variables that affect runs; none of them is a secret."""


def describe_environment() -> dict[str, dict[str, Any]]:
    """Heading → name → value, ready for JSON."""
    versions = {name: _version(name) for name in _PACKAGES}
    return {
        "packages": {name: version for name, version in versions.items() if version is not None}
        | {"not installed": ", ".join(name for name, version in versions.items() if version is None) or "none"},
        "machine": {
            "python": f"{platform.python_version()} ({sys.executable})",
            "system": platform.platform(),
            "CPU cores": local_cores(),
            "memory": f"{host_memory_bytes() / 1e9:.1f} GB",
            **_gpus(),
        },
        "variables": {name: _value(name) for name in _VARIABLES},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _value(name: str) -> str:
    value = os.environ.get(name)
    return "(not set)" if value is None else redact_text(strip_credentials(value))


def _gpus() -> dict[str, str]:
    """The GPUs that torch sees; a broken torch must not fail the report, which may be about it."""
    try:
        import torch

        build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
        count = torch.cuda.device_count()
        cards = [torch.cuda.get_device_properties(i) for i in range(count)]
    except Exception as error:
        return {"GPUs": f"unknown: torch cannot be used ({type(error).__name__}: {redact_text(str(error))[:200]})"}
    names = ", ".join(f"{card.name} ({card.total_memory / 1e9:.0f} GB)" for card in cards) or "none that torch can use"
    return {"torch's build": build, "GPUs": names}
