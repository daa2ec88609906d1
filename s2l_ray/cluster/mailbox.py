"""Workers → driver: progress and metrics, while the driver waits in `fit()`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

Event = dict[str, Any]


class _Box:
    """Bounded: if the driver is slow, the oldest events go; progress is not worth an actor's memory."""

    def __init__(self) -> None:
        import collections

        self._events: collections.deque[Event] = collections.deque(maxlen=100_000)

    def put(self, event: Event) -> None:
        self._events.append(event)

    def drain(self) -> list[Event]:
        events = list(self._events)
        self._events.clear()
        return events


@contextlib.contextmanager
def mailbox(on_event: Callable[[Event], None], every_s: float = 0.5) -> Iterator[Any]:
    """An actor handle that workers call `put.remote(event)` on; `on_event` runs in a thread of the driver."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Beside the driver: on another node it would die with that node, and the rest of the run would be silent. A soft
    # wish is none for an actor without resources: Ray picks a node at random (2.60).
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    box = ray.remote(num_cpus=0, scheduling_strategy=here)(_Box).remote()
    stop = threading.Event()

    def deliver() -> None:
        for event in ray.get(box.drain.remote()):
            on_event(event)

    def poll() -> None:
        while not stop.wait(every_s):
            try:
                deliver()
            except ray.exceptions.RayError:  # the actor's node died: progress ends, the work does not
                return

    thread = threading.Thread(target=poll, name="s2l-mailbox", daemon=True)
    thread.start()
    try:
        yield box
    finally:
        stop.set()
        thread.join()
        with contextlib.suppress(ray.exceptions.RayError):
            deliver()
        ray.kill(box)
