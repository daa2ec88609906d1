"""Fingerprints of plain data, and the versions of installed libraries."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import importlib.metadata
import json
import math
import platform
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel

_PACKAGES = ("s2l_ray", "torch", "ray", "transformers", "faiss-cpu", "faiss-gpu", "pyarrow", "numpy")


def fingerprint(obj: Any) -> str:
    """Return a stable name for plain data: blake2b over canonical JSON, 32 hexadecimal characters.

    It is equal for mappings in any order, for tuples and lists, and for a model and the mapping of its fields, but
    different for 1, 1.0 and True. Accepts None, bool, int, finite float, str, enum, path, list, tuple, mapping with
    string keys, dataclass and pydantic model.

    Raises:
        ValueError: a NaN or infinity (NaN is not equal to itself, so nothing holding one is ever "unchanged").
        TypeError: any other type, or a key that is not a string.
    """
    canonical = json.dumps(_plain(obj, "it"), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(canonical.encode("ascii"), digest_size=16).hexdigest()


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed libraries that matter, without importing them."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _plain(obj: Any, where: str) -> Any:
    if isinstance(obj, enum.Enum):
        return _plain(obj.value, where)
    if obj is None or isinstance(obj, bool):
        return obj
    if isinstance(obj, int):
        return int(obj)
    if isinstance(obj, float):
        if not math.isfinite(obj):
            raise ValueError(f"No fingerprint: {where} is {float(obj)!r}; only finite numbers identify an artifact.")
        return float(obj)  # numpy's float64 is a float with another repr
    if isinstance(obj, (str, PurePath)):
        return str(obj)
    if isinstance(obj, (list, tuple)):
        return [_plain(value, f"{where}[{index}]") for index, value in enumerate(obj)]
    if isinstance(obj, BaseModel):
        return _plain(obj.model_dump(mode="python"), where)
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        fields = {field.name: getattr(obj, field.name) for field in dataclasses.fields(obj)}
        return _plain(fields, where)
    if isinstance(obj, Mapping):
        for key in obj:
            if type(key) is not str:
                raise TypeError(f"No fingerprint: {where} has the key {key!r}; keys must be strings.")
        return {key: _plain(value, f"{where}.{key}") for key, value in obj.items()}
    raise TypeError(f"No fingerprint: {where} is a {type(obj).__name__}; turn it into plain data first.")
