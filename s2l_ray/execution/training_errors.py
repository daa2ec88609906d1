"""Explains how a training on Ray Train workers ended: what was lost, how often, and how to resume."""

from __future__ import annotations

from s2l_ray.errors import EnvironmentFault, InternalError, S2LError, first_line
from s2l_ray.execution.failures import cause_of, final_error
from s2l_ray.storage.folder import Storage
from s2l_ray.storage.retry import StorageError


class WorkersFailedError(EnvironmentFault, RuntimeError):
    """The workers could not finish; completed work is kept, the same command resumes."""

    retryable = False  # the retries are spent


def explain(error: Exception, out: Storage, what: str, max_failures: int, wait_s: float) -> BaseException:
    """The error to raise instead of Ray Train's: this package's unchanged, others as what ended the training."""
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    final = final_error(error)
    if isinstance(final, S2LError):
        return final
    if final is not None:
        return InternalError(
            f"the training of the {what} ended with {type(final).__name__}: {first_line(final)}. A retry would fail "
            "the same way; please report this with the output of S2L_TRACEBACK=1"
        )
    controller = getattr(error, "controller_failure", None)
    if isinstance(controller, OSError):
        if controller.errno is not None:
            return controller  # a full disk is named by the caller
        return StorageError(f"storage failed while the {what} was being trained: {controller}. {_goes_on(out)}")
    if isinstance(controller, WorkerGroupStartupTimeoutError):
        return places_did_not_come(what, wait_s, out)
    cause = cause_of(error)
    if controller is not None:
        return WorkersFailedError(f"the training of the {what} could not continue: {cause}. {_goes_on(out)}")
    if not hasattr(error, "worker_failures"):  # the process that controls the workers, dead or not, does not answer
        return WorkersFailedError(f"the training of the {what} can no longer be observed: {cause}. {_goes_on(out)}")
    return WorkersFailedError(ended(what, f"the workers failed: {cause}", max_failures + 1, max_failures, out))


def places_did_not_come(what: str, wait_s: float, out: Storage) -> WorkersFailedError:
    return WorkersFailedError(
        f"the workers of the {what} did not get resources within resources.capacity_wait_s={wait_s:g}: others "
        f"hold them, or the autoscaler did not add the nodes. {_goes_on(out)}"
    )


def ended(what: str, cause: str, times: int, max_failures: int, out: Storage) -> str:
    """What ended the training, after how many failures, and how to resume."""
    often = "once" if times == 1 else f"{times} times, the last time so"
    return f"the training of the {what} ended {often}: {cause} (resources.max_failures={max_failures}). {_goes_on(out)}"


def _goes_on(out: Storage) -> str:
    return f"The last checkpoint is kept in {out.uri}; the same command resumes from it."
