"""Ends a training at the first final error on any rank: no retry, and no rank is left waiting for the others.

Ray Train ends the training and all its workers if a callback raises. (Its failure policy is not public.)
"""

from __future__ import annotations

from typing import Any

from ray.train import UserCallback

from s2l_ray.execution.failures import final_among


class FailFast(UserCallback):
    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raises the final error, if there is one among the workers' errors."""
        error = final_among(worker_exceptions)
        if error is not None:
            raise error
