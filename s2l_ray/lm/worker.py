"""What a training loop needs from where it runs. Plain torch, no Ray."""

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
        """Every rank's value, on every rank; a barrier."""


class Alone:
    """A worker without others."""

    rank, num_workers = 0, 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def broadcast(self, value: Any) -> Any:
        return value

    def all_gather(self, value: Any) -> list[Any]:
        return [value]


class WorkerContext(Peers, Protocol):
    """What a loop needs from where it runs."""

    def emit(self, **event: Any) -> None: ...

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on every rank; a barrier."""

    def save(self, name: str, progress: dict[str, Any], write: Callable[[Path], None]) -> None:
        """Make a checkpoint of what every rank's `write(folder)` leaves there; a barrier."""

    def notice(self, step: int) -> bool:
        """A node of this training will be taken away, and that is news: time for a checkpoint. May be a barrier."""

    def report(self, metrics: dict[str, Any]) -> None:
        """Tell whoever watches this training from outside (Ray Tune); a barrier."""

    def restore(self) -> contextlib.AbstractContextManager[tuple[Path, dict[str, Any]] | None]:
        """The newest checkpoint's files of all ranks and its progress."""

    def stream(self, tokens: Storage, units: list[tuple[int, ...]]) -> Iterator[Examples]: ...
