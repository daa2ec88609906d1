"""`paced_driver.py PACE CONFIG …` is `s2l run CONFIG …`, whose proxy waits at given steps.

PACE `fleet`: until the fleet has another size; `notice`: for a notice, and then, a step later, for its node's end.

Not imported: run as a program, so that Ray sends `paced` to the workers by value.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from typing import Any

import s2l_ray.stages.proxy.loop
from s2l_ray.cli import main
from s2l_ray.execution import training

WAITS = {(8, 3), (14, 2)}
"""(step, workers): a fleet of so many waits there, until it is torn down for one of another size."""
NOTICE_STEP = 9


def paced(pace: str, job: Any, worker: Any) -> Any:
    from s2l_ray.stages.proxy.loop import run_worker

    emit, notice = worker.emit, worker.notice
    asked_at: list[int] = []

    def told(**event: Any) -> None:
        emit(**event, workers=worker.num_workers)
        while event["event"] == "train" and (event["step"], worker.num_workers) in WAITS:
            time.sleep(0.1)

    def noticed(step: int) -> bool:
        asked_at.append(step)
        if asked_at[0] < NOTICE_STEP == step:
            while not notice(step):
                time.sleep(0.1)
            return True
        while asked_at[0] < NOTICE_STEP < step:
            time.sleep(0.1)
        return bool(notice(step))

    if pace == "fleet":
        worker.emit = told
    else:
        worker.notice = noticed
    return run_worker(job, worker)


if __name__ == "__main__":
    s2l_ray.stages.proxy.loop.run_worker = functools.partial(paced, sys.argv[1])
    training.RESIZE_CHECK_S = 2.0
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
    sys.exit(main(["run", *sys.argv[2:]]))
