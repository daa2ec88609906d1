"""Context in which a target worker runs without Ray: checkpoints in a folder, and death at a chosen step."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from s2l_ray.data.token_examples import Examples
from s2l_ray.execution.token_stream import stream_units
from s2l_ray.lm.worker import Alone
from s2l_ray.storage.folder import Storage


class Died(Exception):
    """As kill -9: nothing is tidied up."""


class LocalWorkerContext(Alone):
    """`lm.worker.WorkerContext` of a single worker."""

    def __init__(
        self, checkpoints: Path, dies_after: tuple[str, int] | None = None, notice_at: int | None = None
    ) -> None:
        """Create a worker that dies after an event, given as (`train` or `evaluation`, optimiser step).

        With log_every_steps=1, `train` is before that step is evaluated or saved.
        """
        super().__init__(torch.device("cpu"))
        self.checkpoints, self.dies_after, self.notice_at = checkpoints, dies_after, notice_at
        self.events: list[dict[str, Any]] = []
        self.progress: list[dict[str, Any]] = []

    def emit(self, **event: Any) -> None:
        self.events.append(event)
        if (event["event"], event["step"]) == self.dies_after:
            raise Died

    def notice(self, step: int) -> bool:
        return step == self.notice_at

    def report(self, metrics: dict[str, Any]) -> None:
        """Do nothing, because nobody supervises this training."""

    def save(self, name: str, progress: dict[str, Any], write: Callable[[Path], None]) -> None:
        folder = self.checkpoints / name
        folder.mkdir(parents=True)
        write(folder)
        (folder / "progress.json").write_text(json.dumps(progress))
        self.progress.append(json.loads(json.dumps(progress)))

    @contextlib.contextmanager
    def restore(self) -> Iterator[tuple[Path, dict[str, Any]] | None]:
        found = sorted(p.parent for p in self.checkpoints.glob("*/progress.json"))
        yield (found[-1], json.loads((found[-1] / "progress.json").read_text())) if found else None

    def stream(self, tokens: Storage, units: list[tuple[int, ...]]) -> Iterator[Examples]:
        return stream_units(tokens, units)
