"""Explains what ended a task or a training: this package's errors unchanged, others by their most informative line."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping

from s2l_ray.errors import S2LError

_MEMORY_MARKS = ("out of memory", "OutOfMemory", "can't allocate memory", "MemoryError", "memory usage threshold",
                 "low on memory", "CUDA error: out of memory")  # fmt: skip
_MEMORY_CURE = (
    "there is not enough memory: lower tokens_per_microbatch (and tokens_per_batch for scoring), set a higher "
    "target.zero_stage or target.gradient_checkpointing=true, or use workers with more memory"
)
_STORAGE_MARKS = ("AWS Error", "curlCode", "google::cloud", "Azure::Core")
"""Marks of errors from pyarrow's file systems, which Ray Train uses directly."""
_STORAGE_CURE = "the storage failed: check network and endpoint"
_SAYS_NOTHING = re.compile(
    r"^(Training failed due to|\[Rank .* Error Snippet\]|A worker health check failed|Worker info:|Traceback |File "
    r"|The actor died unexpectedly before finishing|\s*(class_name|actor_id|pid|namespace|ip|node_id): "
    r"|Refer to the doc|The actor is dead because its worker process has died)|^\W*$"
)
_EXIT_DETAIL = re.compile(r"Worker exit detail: (.+)")
_MAX_CHARS = 600


_PLAIN = (ValueError, TypeError, LookupError, AttributeError, NameError, ImportError, ArithmeticError, AssertionError,
          NotImplementedError, RecursionError)  # fmt: skip
"""Errors that recur when the same program runs on the same data."""
_WORLD = (OSError, EOFError)
"""Errors that depend on the environment, although some libraries derive them from the former."""
_GONE_GROUP = "process group"
"""Part of torch's ValueError after Ray has closed the connection between workers because one was lost."""


def is_final(error: BaseException) -> bool:
    """Whether other workers, or another attempt, would fail with the same error."""
    import ray

    if isinstance(error, ray.exceptions.RayTaskError):
        return isinstance(error.cause, BaseException) and is_final(error.cause)
    if isinstance(error, S2LError):
        return not error.retryable
    if isinstance(error, (*_WORLD, ray.exceptions.RayError)) or _GONE_GROUP in str(error):
        return False
    return isinstance(error, _PLAIN)


@contextlib.contextmanager
def unwrap_task_errors() -> Iterator[None]:
    """Raise this package's errors from Ray tasks unchanged: Ray's traceback around them would bury the message."""
    import ray

    try:
        yield
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, S2LError):
            raise error.cause from None
        raise


def final_error(failure: BaseException) -> BaseException | None:
    """The final error inside Ray Train's error, if that is what ended the training."""
    inner = getattr(failure, "controller_failure", None)
    if inner is not None:
        return inner if is_final(inner) else final_error(inner)
    return final_among(getattr(failure, "worker_failures", {}))


def final_among(errors: Mapping[int, Exception]) -> Exception | None:
    """The first final error of `errors` (by rank), this package's before others.

    If a worker was lost, errors other than this package's may be a consequence of that.
    """
    final = [errors[rank] for rank in sorted(errors) if is_final(errors[rank])]
    own = [error for error in final if isinstance(error, S2LError)]
    if own:
        return own[0]
    lost = any(getattr(error, "health_check_failure", None) is not None for error in errors.values())
    return final[0] if final and not lost else None


def cause_of(failure: BaseException) -> str:
    """One sentence on why a Ray Train run failed; lack of memory and storage failures are named, with a cure.

    A rank that ran out of memory takes precedence over those that then lost their connection to it.
    """
    inner = getattr(failure, "controller_failure", None)
    workers: Mapping[int, BaseException] = getattr(failure, "worker_failures", {})
    texts = [f"rank {rank}: {telling_line(workers[rank])}" for rank in sorted(workers)] or [
        telling_line(inner or failure)
    ]
    everything = [_text_of(e) for e in workers.values()] or [_text_of(inner or failure)]
    for text, whole in zip(texts, everything, strict=True):
        if any(mark in whole for mark in _MEMORY_MARKS):
            return f"{text}. So {_MEMORY_CURE}"
        if any(mark in whole for mark in _STORAGE_MARKS):
            return f"{text}. So {_STORAGE_CURE}"
    told = [t for t in texts if not _is_collateral(t)]
    return (told or texts)[0]


def is_memory(error: BaseException) -> bool:
    """Whether the error is due to lack of memory."""
    return isinstance(error, MemoryError) or any(mark in _text_of(error) for mark in _MEMORY_MARKS)


def _text_of(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _is_collateral(line: str) -> bool:
    """Whether the line is an error that a rank reports because another one is gone."""
    return any(mark in line for mark in ("Connection closed by peer", "Connection reset by peer", "gloo"))


def what_happened(error: BaseException) -> str:
    """Says whether a process was lost, or is alive but its work has failed, and why."""
    import ray

    raised = isinstance(error, ray.exceptions.RayTaskError | S2LError)
    return f"{'a worker failed' if raised else 'a process was lost'} ({telling_line(error)})"


def telling_line(error: BaseException) -> str:
    """The first informative line, with the error's type unless it is Ray's.

    For a task's error, it is what the task raised: Ray's own text begins with the process's name, in colour.
    """
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        return telling_line(cause)
    died = getattr(error, "health_check_failure", None)
    text = str(error if died is None else died)
    lines = [line.strip() for line in text.splitlines()]
    for line in lines:
        if any(mark in line for mark in _MEMORY_MARKS):
            return line[:_MAX_CHARS].rstrip(". ")
    foreign = not type(error).__module__.startswith("ray.")
    detail = None if foreign else _EXIT_DETAIL.search(text)
    if detail:
        return f"its process died ({detail.group(1)[:_MAX_CHARS].rstrip('. ')})"
    said = [line for line in lines if not _SAYS_NOTHING.match(line)]
    line = said[0] if said else repr(error)
    return (f"{type(error).__name__}: {line}" if foreign else line)[:_MAX_CHARS].rstrip(". ")
