"""Interfaces between a training loop and the workers that run it. Plain torch, no Ray."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch

from s2l_ray.data.token_examples import Examples
from s2l_ray.storage.folder import Storage


class Peers(Protocol):
    """Workers that compute something together, seen from one of them."""

    rank: int
    num_workers: int
    device: torch.device

    def all_gather(self, value: Any) -> list[Any]:
        """Return every rank's value, on every rank; a barrier."""


class Alone:
    """Single worker without peers."""

    rank, num_workers = 0, 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def broadcast(self, value: Any) -> Any:
        return value

    def all_gather(self, value: Any) -> list[Any]:
        return [value]


class WorkerContext(Peers, Protocol):
    """Interface of a worker for a training loop."""

    def emit(self, **event: Any) -> None: ...

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's value, on every rank; a barrier."""

    def save(self, name: str, progress: dict[str, Any], write: Callable[[Path], None]) -> None:
        """Make a checkpoint of the files that every rank's `write(folder)` creates; a barrier."""

    def notice(self, step: int) -> bool:
        """Whether a node is newly about to be removed, so that a checkpoint is due; may be a barrier."""

    def report(self, metrics: dict[str, Any]) -> None:
        """Report metrics to the program that supervises this training (Ray Tune); a barrier."""

    def restore(self) -> contextlib.AbstractContextManager[tuple[Path, dict[str, Any]] | None]:
        """Return a context with the newest checkpoint's files of all ranks and its progress, or None."""

    def stream(self, tokens: Storage, units: list[tuple[int, ...]]) -> Iterator[Examples]: ...
