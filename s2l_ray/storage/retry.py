"""Bounded retries for storage that is reached over a network, and the errors that are left when they are spent."""

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

# These do not pass by waiting. pyarrow reports AWS errors as bare OSErrors whose text carries the AWS name.
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
    """The storage failed and waiting did not help; the message names the URI, the operation and the cure."""


class StorageFullError(StorageError):
    """No space left. Waiting does not help, and neither do other workers."""

    retryable = False


class DamagedFile(StorageError):
    """A file of the run is torn or altered; it can be made again."""

    retryable = False


class MissingFile(StorageError, FileNotFoundError):
    """A file of the run is gone; it can be made again."""

    retryable = False


_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def translate_disk_full(uri: str) -> Iterator[None]:
    """Raises StorageFullError, naming the file, where the block runs out of disk space or quota."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise StorageFullError(
            f"No space left on device (or quota used up) while writing {uri}. Nothing stands under that name unless it "
            "stood there before; complete stages and parts are kept. Free or add space there, then run the same "
            "command to resume"
        ) from error


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how patiently one storage operation is repeated."""

    tries: int = 4
    """Tries in all, the first included."""
    first_wait_s: float = 0.5
    """Pause after the first failure (seconds)."""
    factor: float = 2.0
    """Each further pause is this many times the one before."""
    jitter: float = 0.25
    """Random share added to each pause, so that hundreds of workers do not come back at the same moment."""
    sleep: Callable[[float], None] = time.sleep
    """What waits; a test passes its own."""

    def run(self, operation: Callable[[], T], doing: str, uri: str) -> T:
        """`operation()`, repeated while it fails with a transient OSError.

        Raises:
            StorageError: credentials refused, bucket missing, or the last try failed too.
            OSError: errors that say all themselves (missing file, permission) pass through unchanged.
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
        cure = "The storage refuses the credentials: give this process (and the Ray workers) ones that may do this."
    elif _marked(error, _MISSING_BUCKET_MARKS):
        cure = "The bucket does not exist: create it, or correct its name or the endpoint in the URI."
    else:
        cure = "Check network, endpoint and free space, then run the same command again: finished stages are kept."
    count = "once" if tries == 1 else f"{tries} times"
    return f"Storage failed {count} while {doing} {uri}: {redact_text(str(error))}. {cure}"
