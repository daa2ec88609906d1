"""Sends progress and metrics from the workers to the driver while it waits in `fit()`."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from s2l_ray.execution.failures import telling_line

Event = dict[str, Any]

_ANSWER_S = 10.0
_LAST_TRIES = 3
"""Attempts, a second apart, to read a mailbox that does not answer at the end of the work."""

logger = logging.getLogger(__name__)


class _Box:
    """A bounded mailbox: if the driver is slow, the oldest events are dropped to limit the actor's memory."""

    def __init__(self, most: int) -> None:
        import collections

        self._events: collections.deque[Event] = collections.deque()
        self._most = most
        self._first = 0  # number of the oldest event still kept

    def put(self, event: Event) -> None:
        self._events.append(event)
        if len(self._events) > self._most:
            self._events.popleft()
            self._first += 1

    def read(self, seen: int) -> tuple[int, list[Event]]:
        """(number of the first event, events) from number `seen` on; earlier ones are dropped. Repeating a call returns
        the same events, so that a lost answer loses none."""
        while self._events and self._first < seen:
            self._events.popleft()
            self._first += 1
        return self._first, list(self._events)


def hand_over(event: Event, on_event: Callable[[Event], None], log: bool = True) -> bool:
    """Whether the listener accepted the event; its error is only logged, because progress must not end the work."""
    try:
        on_event(event)
    except Exception:
        if log:
            logger.exception(
                "progress and metrics are incomplete: their listener failed on %s; the work continues", event
            )
        return False
    return True


class _Reader:
    """Delivers each event once to a listener; failures are logged and end nothing."""

    def __init__(self, box: Any, on_event: Callable[[Event], None]) -> None:
        self._box, self._on_event = box, on_event
        self._seen = self._missed = self._refused = 0

    def deliver(self) -> None:
        """Raises Ray's errors if the mailbox does not answer."""
        import ray

        first, events = ray.get(self._box.read.remote(self._seen), timeout=_ANSWER_S)
        if first > self._seen:
            self._missed += first - self._seen
            logger.warning(
                "%s of the workers' events were dropped because there were too many: progress and metrics lack them",
                self._missed,
            )
        for event in events:
            self._refused += not hand_over(event, self._on_event, log=self._refused == 0)
        self._seen = first + len(events)

    def close(self) -> None:
        if self._refused > 1:
            logger.warning("the listener for progress and metrics failed on %s events in total", self._refused)


@contextlib.contextmanager
def event_channel(on_event: Callable[[Event], None], every_s: float = 0.5, most: int = 100_000) -> Iterator[Any]:
    """An actor handle on which workers call `put.remote(event)`; `on_event` runs in a thread of the driver.

    Neither an error in the listener nor the loss of the mailbox ends the block or hides the block's own error.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # On the driver's node: on another one it would die with that node, and the rest of the run would be silent. Soft
    # affinity has no effect on an actor without resources: Ray 2.60 picks a random node.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    box = ray.remote(num_cpus=0, scheduling_strategy=here)(_Box).remote(most)
    reader, stop = _Reader(box, on_event), threading.Event()

    def try_once() -> bool:
        """Whether another attempt makes sense."""
        try:
            reader.deliver()
        except (ray.exceptions.ActorUnavailableError, ray.exceptions.GetTimeoutError):
            return True
        except Exception as error:
            known = isinstance(error, ray.exceptions.RayError)
            logger.warning(
                "the workers' progress can no longer be followed (%s); the work itself continues",
                telling_line(error), exc_info=not known,
            )  # fmt: skip
            return False
        return True

    def poll() -> None:
        while not stop.wait(every_s):
            if not try_once():
                return

    thread = threading.Thread(target=poll, name="s2l-mailbox", daemon=True)
    thread.start()
    try:
        yield box
    finally:
        stop.set()
        thread.join()
        _deliver_the_rest(reader)
        with contextlib.suppress(Exception):
            ray.kill(box)


def _deliver_the_rest(reader: _Reader) -> None:
    import ray

    for tries_left in reversed(range(_LAST_TRIES)):
        try:
            reader.deliver()
            break
        except (ray.exceptions.ActorUnavailableError, ray.exceptions.GetTimeoutError):
            if not tries_left:
                logger.warning("the workers' last events are lost: their mailbox does not answer")
            time.sleep(1 if tries_left else 0)
        except Exception:  # reported when it happened, or the cluster is gone, which the work's own error reports
            break
    reader.close()
