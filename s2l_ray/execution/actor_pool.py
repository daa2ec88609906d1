"""A fixed number of actors that process a list item by item; actors that die are replaced.

Ray Data's pools restart a dead actor indefinitely and report an error in its constructor only as text; here the number
of failures is limited, and this package's errors end the pool unchanged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from s2l_ray.errors import EnvironmentFault, S2LError
from s2l_ray.execution.failures import is_final, is_memory, telling_line, unwrap_task_errors, what_happened
from s2l_ray.execution.placement import Placement
from s2l_ray.execution.session import head_answers

_POLL_S = 5.0


class PoolFailedError(EnvironmentFault):
    """The pool's processes died more often than `max_failures` allows."""

    retryable = False  # the retries are spent


class Worker(Protocol):
    """The object that an actor holds and calls for every item."""

    def run(self, item: Any) -> Any: ...


class _Host:
    """The actor; creates its worker with the first item, so that any failure is raised as that item's error."""

    def __init__(self, make: Callable[[], Worker]) -> None:
        self._make, self._worker = make, None

    def started(self) -> None:
        """Returns once the actor is running."""

    def run(self, item: Any) -> Any:
        worker = self._worker or self._make()
        self._worker = worker  # type: ignore[assignment]
        return worker.run(item)


class ActorPool:
    """A context manager for actors of one kind, which start with the first list to process.

    Args:
        make: creates the worker inside the actor; picklable.
        what: what the actors do, for messages.
        max_failures: how many times actors are replaced; -1: no limit.
    """

    def __init__(
        self, make: Callable[[], Worker], placement: Placement, what: str, max_failures: int, say: Callable[[str], None]
    ) -> None:
        self.placement, self.what, self.max_failures, self.say = placement, what, max_failures, say
        self._make = make
        self._idle: list[Any] = []
        self._starting: dict[Any, Any] = {}
        self._all: list[Any] = []
        self.failures = 0

    def __enter__(self) -> ActorPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def map(self, items: Sequence[Any], on_done: Callable[[Any], None] = lambda result: None) -> list[Any]:
        """Return worker.run(item) for each item, in order. An item is run again if its actor dies.

        Args:
            on_done: called with every result as soon as it is available.

        Raises:
            PoolFailedError: actors failed too often.
        """
        import ray

        waiting = deque(range(len(items)))
        running: dict[Any, tuple[Any, int]] = {}
        results: dict[int, Any] = {}
        while len(results) < len(items):
            self._start(min(self.placement.num_workers, len(waiting) + len(running)))
            while waiting and self._idle:
                actor, index = self._idle.pop(), waiting.popleft()
                running[actor.run.remote(items[index])] = actor, index
            for reference in ray.wait([*running, *self._starting], num_returns=1, timeout=_POLL_S)[0]:
                actor, index = running.pop(reference) if reference in running else (self._starting.pop(reference), -1)
                try:
                    with unwrap_task_errors():
                        result = ray.get(reference)
                except (ray.exceptions.RayError, S2LError) as error:
                    self._drop(actor)
                    waiting.extendleft([index] if index >= 0 else [])
                    self._count(error)
                    continue
                self._idle.append(actor)
                if index >= 0:
                    results[index] = result
                    on_done(result)
        return [results[i] for i in range(len(items))]

    def close(self) -> None:
        """Kill the actors, whatever they are doing."""
        for actor in list(self._all):
            self._drop(actor)
        self._idle, self._starting = [], {}

    def _start(self, wanted: int) -> None:
        """Request actors up to `wanted`; an actor that is still waiting to be placed keeps no item from the others."""
        import ray

        while len(self._all) < wanted:
            actor = ray.remote(_Host).options(**_options(self.placement)).remote(self._make)
            self._all.append(actor)
            self._starting[actor.started.remote()] = actor

    def _drop(self, actor: Any) -> None:
        import ray

        ray.kill(actor)
        self._all.remove(actor)

    def _count(self, error: Any) -> None:
        """Count one more failure; raises if a retry would fail the same way, or if the limit is exceeded."""
        import ray

        if is_final(error):
            raise error
        self.failures += 1
        lost_cluster = not head_answers(ray.get_runtime_context().gcs_address)
        if lost_cluster or 0 <= self.max_failures < self.failures:
            cure = "run the same command to resume"
            if is_memory(error):
                cure = "use workers with more memory, or reduce the batch size"
            raise PoolFailedError(
                f"the processes for {self.what} failed {self.failures} time{'s' if self.failures > 1 else ''} "
                f"(resources.max_failures): {telling_line(error)}. Completed work is kept; {cure}"
            ) from error
        self.say(f"[{self.what}] {what_happened(error)}; starting a replacement ({self.failures})")


def _options(placement: Placement) -> dict[str, Any]:
    """Ray's options for an actor."""
    custom = dict(placement.custom_resources)
    return {
        "num_cpus": placement.cpus_per_worker, "num_gpus": placement.gpus_per_worker,
        "accelerator_type": placement.accelerator_type, "memory": custom.pop("memory", None),
        "resources": custom or None, "max_restarts": 0,
        "scheduling_strategy": "DEFAULT",  # not within the placement group of a sweep's trial
    }  # fmt: skip
