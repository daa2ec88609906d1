"""Several workers as threads of one process: what they say to each other goes through barriers, and neither Ray nor
torch.distributed is needed. For loops that score; trainings average gradients between processes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from s2l_ray.testing.local_worker import LocalWorkerContext


class _Meeting:
    def __init__(self, size: int) -> None:
        self.barrier, self.values = threading.Barrier(size, timeout=60), [None] * size


class ThreadWorker(LocalWorkerContext):
    def __init__(self, rank: int, meeting: _Meeting) -> None:
        super().__init__(Path("unused"))
        self.rank, self.num_workers, self._meeting = rank, len(meeting.values), meeting

    def emit(self, **event: Any) -> None:
        self.events.append(event)

    def broadcast(self, value: Any) -> Any:
        return self.all_gather(value)[0]

    def all_gather(self, value: Any) -> list[Any]:
        self._meeting.values[self.rank] = value
        self._meeting.barrier.wait()
        found = list(self._meeting.values)
        self._meeting.barrier.wait()
        return found


def run_workers(num_workers: int, work: Any) -> tuple[list[Any], list[ThreadWorker]]:
    """What each rank's `work(worker)` gives, and the workers. An error of one ends the others' waiting."""
    meeting = _Meeting(num_workers)
    workers = [ThreadWorker(rank, meeting) for rank in range(num_workers)]

    def one(worker: ThreadWorker) -> Any:
        try:
            return work(worker)
        except BaseException:
            meeting.barrier.abort()
            raise

    with ThreadPoolExecutor(num_workers) as pool:
        return list(pool.map(one, workers)), workers
