"""Room on a cluster that others use too: how much is free, and waiting for it."""

from __future__ import annotations

import time
from collections.abc import Callable

from s2l_ray.cluster.placement import Placement


def times_it_fits(placement: Placement, resources: dict[str, float], cores: int | None = None) -> int:
    """How often all of these workers have their places at the same time, with one CPU left for reading; 0: not once.

    Elastic workers begin as the fewest that will do. `cores`: of this machine, where Ray is embedded and counts more
    CPUs than there are.
    """
    cpus = min(resources.get("CPU", 0) - 1, cores if cores is not None else float("inf"))
    workers = placement.min_workers or placement.num_workers
    fit = cpus // (workers * placement.cpus_per_worker)
    if placement.gpus_per_worker:
        fit = min(fit, resources.get("GPU", 0) // (workers * placement.gpus_per_worker))
    for name, each in placement.custom_resources.items():
        fit = min(fit, resources.get(name, 0) // (workers * each))
    return max(0, int(fit))


def free_resources(settle_s: float = 15.0) -> dict[str, float]:
    """What nobody holds now. What has just been given back counts as held for a moment more, so it looks again."""
    import ray

    deadline = time.monotonic() + settle_s
    while True:
        total, free = ray.cluster_resources(), ray.available_resources()
        if all(free.get(n, 0) >= total.get(n, 0) for n in ("CPU", "GPU")) or time.monotonic() > deadline:
            return free
        time.sleep(0.2)


def wait_for_room(
    placement: Placement, what: str, say: Callable[[str], None], every_s: float = 2.0
) -> dict[str, float]:
    """Until these workers' places and one CPU for reading are free at the same time → what is free then.

    Workers that took a busy cluster's last CPU would wait for data, and the tasks that read data for a CPU.
    """
    import ray

    said = False
    while times_it_fits(placement, free := ray.available_resources()) < 1:
        if not said:
            total = ray.cluster_resources()
            say(
                f"[{what}] waiting: {placement.describe()}, and 1 CPU for reading, are needed; of the cluster's "
                f"{total.get('CPU', 0):g} CPU and {total.get('GPU', 0):g} GPU, {free.get('CPU', 0):g} CPU and "
                f"{free.get('GPU', 0):g} GPU are free, others hold the rest"
            )
            said = True
        time.sleep(every_s)
    if said:
        say(f"[{what}] there is room now")
    return free
