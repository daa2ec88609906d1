"""Waits, within a limit, for free capacity on a cluster that others use too or that can grow."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from s2l_ray.config.schema import ResourcesConfig
from s2l_ray.errors import EnvironmentFault
from s2l_ray.execution.capacity import ACCELERATOR_TYPE, Node, fit, total
from s2l_ray.execution.placement import Placement, describe_nodes, node_resources
from s2l_ray.text.formats import format_duration

Say = Callable[[str], None]

_SAY_AGAIN_S = 600.0


class CapacityTimeoutError(EnvironmentFault):
    """The resources for a stage's workers did not become free, or were not added, in time."""

    retryable = False  # the whole time limit has been spent


class Patience:
    """Reports what is being waited for, repeats it from time to time, and ends the wait at its limit."""

    def __init__(self, what: str, limit_s: float, say: Say) -> None:
        """`what`: the stage, for messages."""
        self._what, self._limit_s, self._say = what, limit_s, say
        self._began = time.monotonic()
        self._next_s = 0.0

    @property
    def left_s(self) -> float:
        return self._limit_s - (time.monotonic() - self._began)

    @property
    def told(self) -> bool:
        return self._next_s > 0

    def tell(self, reason: str) -> None:
        """Raises CapacityTimeoutError when the limit is reached."""
        waited = time.monotonic() - self._began
        if waited >= self._limit_s:
            raise CapacityTimeoutError(
                f"[{self._what}] gave up after {format_duration(waited)} "
                f"(resources.capacity_wait_s={self._limit_s:g}): {reason}. Completed work is kept; when there are free "
                "resources, run the same command to resume. Request less (resources.proxy, resources.target), or raise "
                "the limit"
            )
        if waited >= self._next_s:
            already = f" since {format_duration(waited)}" if self.told else ""
            self._say(f"[{self._what}] waiting{already} (at most {format_duration(self._limit_s)}): {reason}")
            self._next_s = waited + _SAY_AGAIN_S


def free_resources(settle_s: float = 15.0) -> list[Node]:
    """Free resources per node. Just-released resources count as used for a moment, so it looks again for `settle_s`."""
    deadline = time.monotonic() + settle_s
    while True:
        nodes, free = node_resources(), free_now()
        if all(total(free, n) >= total(nodes, n) for n in ("CPU", "GPU")) or time.monotonic() > deadline:
            return free
        time.sleep(0.2)


def free_now() -> list[Node]:
    """Free resources at this moment, per node."""
    from ray._private.state import available_resources_per_node, state

    leaving = state.get_draining_nodes()
    return [free for node, free in available_resources_per_node().items() if node not in leaving]


def wait_for_free(placement: Placement, what: str, say: Say, limit_s: float, every_s: float = 2.0) -> list[Node]:
    """Wait until the resources for these workers and one CPU for reading are free at the same time → all that is free.

    If workers took a busy cluster's last CPU, they would wait for data and the tasks that read data for a CPU.

    Raises:
        CapacityTimeoutError: the resources did not become free in time.
    """
    patience = Patience(what, limit_s, say)
    while not fit(free := free_now(), placement.demand).num_replicas:
        patience.tell(_who_holds_it(placement, node_resources(), free))
        time.sleep(min(every_s, max(0.0, patience.left_s)))
    if patience.told:
        say(f"[{what}] resources are free now")
    return free


def _who_holds_it(placement: Placement, nodes: Sequence[Node], free: Sequence[Node]) -> str:
    has, left = (f"{total(n, 'CPU'):g} CPU and {total(n, 'GPU'):g} GPU" for n in (nodes, free))
    needed = f"{placement.describe()}, and 1 CPU for reading, are needed"
    if not fit(nodes, placement.demand).num_replicas:
        return f"{needed}; the cluster has shrunk to {describe_nodes(nodes)}, which is too small even without others"
    return f"{needed}; of the cluster's {has}, {left} are free and the rest is in use"


def results_of(tasks: Sequence[Any], patience: Callable[[], Patience], every_s: float = 30.0) -> list[Any]:
    """Results of one-CPU tasks, in their order; raises a task's error immediately.

    Args:
        patience: creates the limit on how long the next task may take, including its wait for a CPU.

    Raises:
        CapacityTimeoutError: no task finished within that time; the remaining ones are cancelled.
    """
    import ray

    pending, done, waiting = list(tasks), {}, patience()
    try:
        while pending:
            ready, pending = ray.wait(pending, num_returns=1, timeout=max(0.1, min(every_s, waiting.left_s)))
            for task in ready:
                done[task] = ray.get(task)
                waiting = patience()
            if not ready:
                free = total(free_now(), "CPU")
                waiting.tell(
                    f"{len(pending)} of {len(tasks)} tasks have not finished; each needs 1 CPU, {free:g} are free"
                )
    except BaseException:
        for task in pending:
            ray.cancel(task)
        raise
    return [done[task] for task in tasks]


def wait_for_nodes(placement: Placement, what: str, say: Say, limit_s: float) -> None:
    """Wait until the autoscaler has added what these workers, and one CPU for reading, need.

    A placement group is the only request that every autoscaler sees and that can be withdrawn without a trace. It is
    removed as soon as it is granted, and Ray Train requests the same resources again.

    Raises:
        CapacityTimeoutError: the nodes were not added in time.
    """
    bundles = [dict(placement.worker) for _ in range(placement.fewest_workers)] + [{"CPU": 1.0}]
    hold_together(bundles, Patience(what, limit_s, say), lambda: (
        f"{placement.describe()}, and 1 CPU for reading, have been requested from the autoscaler; available: "
        f"{describe_nodes(node_resources()) or 'no node'}"
    ))  # fmt: skip


def wait_for_gpu(resources: ResourcesConfig, say: Say) -> bool:
    """Request one GPU from the autoscaler if `device: auto` may use one; True once it is available.

    It is of the type that the proxy needs, so that no more expensive node is started just to find out.
    """
    import ray

    if resources.device != "auto" or not resources.may_grow or ray.cluster_resources().get("GPU", 0) >= 1:
        return False
    if not resources.gpu_wait_s:
        return False
    asked, limit = resources.proxy, resources.gpu_wait_s
    bundle = {"GPU": min(1.0, asked.gpus_per_worker), **asked.custom_resources}
    if asked.accelerator_type:
        bundle[f"{ACCELERATOR_TYPE}{asked.accelerator_type}"] = 0.001
    reason = "resources.device=auto and a GPU was requested from the autoscaler; if none is added, CPUs are used"
    try:
        hold_together([bundle], Patience("cluster", limit, say), lambda: reason)
    except CapacityTimeoutError:
        say(f"[cluster] no GPU was added within resources.gpu_wait_s={limit:g}: everything runs on CPUs")
        return False
    return True


def hold_together(bundles: list[dict[str, float]], patience: Patience, reason: Callable[[], str]) -> None:
    """Return once all bundles have been placed at the same time."""
    from ray.util.placement_group import placement_group, remove_placement_group

    group = placement_group(bundles)
    try:
        quick = 3.0  # existing resources are granted within moments, without a message
        while not group.wait(timeout_seconds=max(0.1, min(quick, patience.left_s))):
            patience.tell(reason())
            quick = 10.0
    finally:
        remove_placement_group(group)
