"""What ended a task or a training, in words: our own errors as they are, others by the line that says something."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping

from s2l_ray.errors import S2LError

_MEMORY_MARKS = ("out of memory", "OutOfMemory", "can't allocate memory", "MemoryError", "memory usage threshold",
                 "low on memory", "CUDA error: out of memory")  # fmt: skip
_MEMORY_CURE = (
    "there is not enough memory: lower tokens_per_microbatch (and tokens_per_batch of the scoring), set a higher "
    "target.zero_stage or target.gradient_checkpointing=true, or use workers with more memory"
)
_STORAGE_MARKS = ("AWS Error", "curlCode", "google::cloud", "Azure::Core")
"""Of pyarrow's file systems, where Ray Train itself uses them."""
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
"""What the same program does again with the same data."""
_WORLD = (OSError, EOFError)
"""What depends on the world outside the program, though some libraries derive it from the former."""
_GONE_GROUP = "process group"
"""torch's ValueError where Ray has taken away the connection between the workers, after the loss of one."""


def is_final(error: BaseException) -> bool:
    """Whether other workers, or another try, would meet it again."""
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
    """Errors of ours come out of Ray tasks as they are: Ray's traceback around them would bury what they say."""
    import ray

    try:
        yield
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, S2LError):
            raise error.cause from None
        raise


def final_error(failure: BaseException) -> BaseException | None:
    """The final error within Ray Train's, if that is what ended it."""
    inner = getattr(failure, "controller_failure", None)
    if inner is not None:
        return inner if is_final(inner) else final_error(inner)
    return final_among(getattr(failure, "worker_failures", {}))


def final_among(errors: Mapping[int, Exception]) -> Exception | None:
    """`errors` by rank → the first final one, ours before others'.

    Where a worker was lost, what others say beside errors of ours may be a consequence of that.
    """
    final = [errors[rank] for rank in sorted(errors) if is_final(errors[rank])]
    own = [error for error in final if isinstance(error, S2LError)]
    if own:
        return own[0]
    lost = any(getattr(error, "health_check_failure", None) is not None for error in errors.values())
    return final[0] if final and not lost else None


def cause_of(failure: BaseException) -> str:
    """One sentence on what made a Ray Train run fail; lack of memory and lost storage are said as such, with a cure.

    A rank that lost its memory comes before those that lost their connection with it.
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
    """Whether it ended for lack of memory."""
    return isinstance(error, MemoryError) or any(mark in _text_of(error) for mark in _MEMORY_MARKS)


def _text_of(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _is_collateral(line: str) -> bool:
    """What a rank says when another one is gone."""
    return any(mark in line for mark in ("Connection closed by peer", "Connection reset by peer", "gloo"))


def what_happened(error: BaseException) -> str:
    """Whether an actor's process is gone, or lives and what it does has failed; with the cause."""
    import ray

    raised = isinstance(error, ray.exceptions.RayTaskError | S2LError)
    return f"{'a worker failed' if raised else 'a process was lost'} ({telling_line(error)})"


def telling_line(error: BaseException) -> str:
    """The first line that says something, with the error's type where it is not Ray's.

    Of a task's error, what the task raised: Ray's own text begins with the process's name, in colour.
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
