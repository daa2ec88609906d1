"""`s2l run CONFIG …`, whose proxy waits at given steps until its fleet has another size.

Not imported: run as a program, so that Ray sends `paced` to the workers by value.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import s2l_ray.proxy.loop
from s2l_ray.cli import main
from s2l_ray.cluster import training

WAITS = {(8, 3), (14, 2)}
"""(step, workers): a fleet of so many waits there, until it is torn down for one of another size."""


def paced(job: Any, host: Any) -> Any:
    from s2l_ray.proxy.loop import run_worker

    emit = host.emit

    def told(**event: Any) -> None:
        emit(**event, workers=host.num_workers)
        while event["event"] == "train" and (event["step"], host.num_workers) in WAITS:
            time.sleep(0.1)

    host.emit = told
    return run_worker(job, host)


if __name__ == "__main__":
    s2l_ray.proxy.loop.run_worker = paced
    training.RESIZE_CHECK_S = 2.0
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
    sys.exit(main(["run", *sys.argv[1:]]))
