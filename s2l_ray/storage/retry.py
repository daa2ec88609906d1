"""Bounded retries for remote storage, and the errors that are raised when retries are exhausted."""

from __future__ import annotations

import contextlib
import errno
import logging
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from s2l_ray.errors import EnvironmentFault, UserError
from s2l_ray.text.redact import redact_text

logger = logging.getLogger(__name__)
T = TypeVar("T")

# Waiting does not help with these. pyarrow reports AWS errors as plain OSErrors whose text contains the AWS name.
_PERMANENT_TYPES = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
_CREDENTIAL_MARKS = (
    "ACCESS_DENIED",
    "INVALID_ACCESS_KEY_ID",
    "SIGNATURE_DOES_NOT_MATCH",
    "INVALID_CLIENT_TOKEN_ID",
    "UNRECOGNIZED_CLIENT",
    "EXPIRED_TOKEN",
    "InvalidAccessKeyId",
    "ExpiredToken",
    "HTTP 401",
    "HTTP 403",
    "PERMISSION_DENIED",
)
_MISSING_BUCKET_MARKS = ("NO_SUCH_BUCKET", "NoSuchBucket")


class StorageError(EnvironmentFault, OSError):
    """Error if storage failed and waiting did not help; the message names the URI, the operation and the remedy."""


class StorageFullError(StorageError):
    """Error if no space is left; neither waiting nor other workers help."""

    retryable = False


class DamagedFile(StorageError):
    """Error for a file of the run that is truncated or altered; it can be rebuilt."""

    retryable = False


class MissingFile(StorageError, FileNotFoundError):
    """Error for a file of the run that is missing; it can be rebuilt."""

    retryable = False


FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def translate_disk_full(uri: str) -> Iterator[None]:
    """Raise StorageFullError, naming the file, if the block runs out of disk space or quota."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise StorageFullError(
            f"No space left on device (or quota used up) while writing {uri}. An earlier file of that name is "
            "unchanged; complete stages and parts are kept. Free or add space there, then run the same command to "
            "resume"
        ) from error


@dataclass(frozen=True)
class RetryPolicy:
    """Policy for repeating a storage operation."""

    tries: int = 4
    """Number of attempts, including the first."""
    first_wait_s: float = 0.5
    """Pause after the first failure (seconds)."""
    factor: float = 2.0
    """Factor by which each pause is longer than the previous one."""
    jitter: float = 0.25
    """Random share added to each pause, so that hundreds of workers do not retry at the same moment."""
    sleep: Callable[[float], None] = time.sleep
    """Function that waits; tests pass their own."""

    def run(self, operation: Callable[[], T], doing: str, uri: str) -> T:
        """Call `operation()`, repeating it while it fails with a transient OSError.

        Raises:
            StorageError: credentials were refused, the bucket does not exist, or the last attempt failed, too.
            OSError: self-explanatory errors (missing file, permission) are raised unchanged.
        """
        wait_s = self.first_wait_s
        for attempt in range(1, self.tries + 1):
            try:
                return operation()
            except (*_PERMANENT_TYPES, StorageError):
                raise
            except OSError as error:
                if _marked(error, _CREDENTIAL_MARKS + _MISSING_BUCKET_MARKS) or attempt == self.tries:
                    raise StorageError(_explain(error, doing, uri, attempt)) from error
                pause_s = wait_s * (1 + self.jitter * random.random())
                logger.warning(
                    "Storage failed while %s %s (try %d of %d, next in %.1f s): %s",
                    doing, uri, attempt, self.tries, pause_s, redact_text(str(error)),
                )  # fmt: skip
                self.sleep(pause_s)
                wait_s *= self.factor
        raise UserError(f"RetryPolicy.tries is {self.tries}; at least one try is needed")


def _marked(error: OSError, marks: tuple[str, ...]) -> bool:
    text = str(error)
    return any(mark in text for mark in marks)


def _explain(error: OSError, doing: str, uri: str, tries: int) -> str:
    if _marked(error, _CREDENTIAL_MARKS):
        cure = "The storage refuses the credentials: give this process (and the Ray workers) ones with permission."
    elif _marked(error, _MISSING_BUCKET_MARKS):
        cure = "The bucket does not exist: create it, or correct its name or the endpoint in the URI."
    else:
        cure = "Check network, endpoint and free space, then run the same command again: finished stages are kept."
    count = "once" if tries == 1 else f"{tries} times"
    return f"Storage failed {count} while {doing} {uri}: {redact_text(str(error))}. {cure}"
