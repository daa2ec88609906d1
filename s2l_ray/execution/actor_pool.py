"""A fixed number of actors that work off a list, item by item; actors that die are replaced.

Ray Data's pools restart a dead actor indefinitely and tell an error of its construction by its text alone; here the
number of failures is bounded, and an error of ours ends the pool as it is.
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
    """The pool's processes died more often than is allowed."""

    retryable = False  # the retries are spent


class Worker(Protocol):
    """What an actor holds."""

    def run(self, item: Any) -> Any: ...


class _Host:
    """The actor: makes its worker with the first item, so that whatever goes wrong comes as that item's error."""

    def __init__(self, make: Callable[[], Worker]) -> None:
        self._make, self._worker = make, None

    def started(self) -> None:
        """Answers once the actor has its place."""

    def run(self, item: Any) -> Any:
        worker = self._worker or self._make()
        self._worker = worker  # type: ignore[assignment]
        return worker.run(item)


class ActorPool:
    """Actors of one kind; a context manager. They start with the first list that is worked off.

    Args:
        make: gives the worker, in the actor; picklable.
        what: they do, for messages.
        max_failures: how often an actor is replaced; -1: always.
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
        """worker.run(item) of each, in the order of the items. An item may be run again where its actor died.

        Args:
            on_done: told every result as it comes.

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
        """End the actors, whatever they do."""
        for actor in list(self._all):
            self._drop(actor)
        self._idle, self._starting = [], {}

    def _start(self, wanted: int) -> None:
        """Ask for actors until there are so many; one that waits for its place holds no item that others could do."""
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
        """One more failure. Raises where another try would meet it again, or was one too many."""
        import ray

        if is_final(error):
            raise error
        self.failures += 1
        lost_cluster = not head_answers(ray.get_runtime_context().gcs_address)
        if lost_cluster or 0 <= self.max_failures < self.failures:
            cure = "run the same command to resume"
            if is_memory(error):
                cure = "use workers with more memory, or ask for less at once"
            raise PoolFailedError(
                f"the processes for {self.what} failed {self.failures} time{'s' if self.failures > 1 else ''} "
                f"(resources.max_failures): {telling_line(error)}. What they finished stays; {cure}"
            ) from error
        self.say(f"[{self.what}] {what_happened(error)}; another one takes over ({self.failures})")


def _options(placement: Placement) -> dict[str, Any]:
    """Ray's, for an actor."""
    custom = dict(placement.custom_resources)
    return {
        "num_cpus": placement.cpus_per_worker, "num_gpus": placement.gpus_per_worker,
        "accelerator_type": placement.accelerator_type, "memory": custom.pop("memory", None),
        "resources": custom or None, "max_restarts": 0,
        "scheduling_strategy": "DEFAULT",  # not within the placement group of a sweep's trial
    }  # fmt: skip
