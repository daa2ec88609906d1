"""Experiment loggers, only on the driver: a stage's figures for TensorBoard, Weights & Biases and MLflow.

`metrics.jsonl` is the run's own log; these show its figures elsewhere. They never delay or end a run: each works in its
own thread, and figures that it cannot deliver are lost there, with one warning.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, SupportsFloat

from s2l_ray.observability.logger_checks import LoggerError, check_loggers
from s2l_ray.observability.logger_mlflow import MLflow
from s2l_ray.observability.logger_sinks import Entry, Identity, Sink, TensorBoard, WandB, as_text, flat
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage
from s2l_ray.text.display import one_line

if TYPE_CHECKING:  # the configuration's package imports this one
    from s2l_ray.config.loggers import LoggersConfig

logger = logging.getLogger(__name__)

__all__ = ["LoggerError", "Loggers", "check_loggers"]

MARK_NAME = "loggers.json"
_MAX_WAITING = 10_000
"""Number of entries that a logger keeps while its server does not answer; then, the oldest are dropped."""
_FLUSH_EVERY_S = 30.0
"""Interval between copies to an object store (seconds), or ten times a copy's duration if that is longer."""
_OPEN_AGAIN_S = 300.0
"""Pause before a logger that could not start tries again (seconds)."""
_CLOSE_WAIT_S = 60.0
"""How long `close` waits for pending figures (seconds)."""


class Loggers:
    """Loggers of one stage; as a context manager, an exception that ends the block marks the stage as failed.

    A run that resumes after its driver died continues in the same Weights & Biases and MLflow runs. These are
    identified by the run folder's URI, the stage's label and a random mark in the folder (`loggers.json`), so that
    neither a recreated folder nor the same path on another machine continues another run's curves.
    """

    def __init__(
        self,
        config: LoggersConfig,
        run_storage: Storage,
        run_name: str,
        stage_label: str,
        settings: Mapping[str, Any],
    ):
        self._last_step = 0
        self._refused: set[str] = set()
        plain = _plain(settings)
        sinks: list[Sink] = []
        if config.tensorboard or config.wandb_project or config.mlflow_uri:
            mark = _mark(run_storage) if config.wandb_project or config.mlflow_uri else ""
            run_id = fingerprint([run_storage.uri, mark, stage_label])
            identity = Identity(run_id, run_name, stage_label, run_storage.uri)
            if config.tensorboard:
                sinks.append(TensorBoard(identity, run_storage, plain))
            if config.wandb_project:
                sinks.append(WandB(identity, run_storage, plain, config.wandb_project))
            if config.mlflow_uri:
                sinks.append(MLflow(identity, plain, config.mlflow_uri, config.mlflow_experiment))
        self._workers = [_Worker(sink) for sink in sinks]

    def log(self, step: int, **values: SupportsFloat | None) -> None:
        """Log figures at a step, including NaN and infinities but not None; returns immediately."""
        if not self._workers:
            return
        numbers = {}
        for name, value in values.items():
            if value is None:
                continue
            try:
                numbers[name] = float(value)
            except (TypeError, ValueError):
                if name not in self._refused:
                    logger.warning("%s is a %s, not a number, so loggers leave it out", name, type(value).__name__)
                self._refused.add(name)
        self._last_step = int(step)
        self._put(Entry(self._last_step, time.time(), numbers, {}))

    def summary(self, **values: Any) -> None:
        """Log final figures and texts; nested mappings are flattened (`heldout/macro`)."""
        numbers: dict[str, float] = {}
        texts: dict[str, str] = {}
        for name, value in flat(_plain(values), "/"):
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                numbers[name] = float(value)
            elif value is not None:
                texts[name] = as_text(value)
        self._put(Entry(self._last_step, time.time(), numbers, texts, final=True))

    def close(self, failed: bool = False) -> None:
        """Deliver pending figures and close, waiting at most a minute."""
        for worker in self._workers:
            worker.finish(failed)
        deadline_s = time.monotonic() + _CLOSE_WAIT_S
        for worker in self._workers:
            worker.wait(deadline_s)
        self._workers = []

    def __enter__(self) -> Loggers:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        self.close(failed=exc_type is not None)

    def _put(self, entry: Entry) -> None:
        for worker in self._workers:
            worker.put(entry)


class _Worker:
    """One sink with its thread, because servers may be slow, and MLflow's client retries requests for minutes."""

    def __init__(self, sink: Sink):
        self.sink = sink
        self._waiting: deque[Entry] = deque(maxlen=_MAX_WAITING)
        self._wake = threading.Event()
        self._closing = self._failed = self._is_open = self._warned = False
        self._open_again_s = self._next_flush_s = 0.0
        self._thread = threading.Thread(target=self._work, name=f"s2l-{sink.name}", daemon=True)
        self._thread.start()

    def put(self, entry: Entry) -> None:
        self._waiting.append(entry)
        self._wake.set()

    def finish(self, failed: bool) -> None:
        self._failed, self._closing = failed, True
        self._wake.set()

    def wait(self, deadline_s: float) -> None:
        self._thread.join(max(0.0, deadline_s - time.monotonic()))
        if self._thread.is_alive():
            logger.warning(
                "%s did not take the last figures within %d s; the run no longer waits for it",
                self.sink.name, _CLOSE_WAIT_S,
            )  # fmt: skip

    def _work(self) -> None:
        while True:
            self._try(self._open)
            closing = self._closing  # read before taking the entries: none is added after it
            entries = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if entries and self._is_open:
                self._try(self.sink.write, entries)
            if closing:
                break
            self._try(self._flush)
            self._wake.wait(_FLUSH_EVERY_S)
            self._wake.clear()
        if self._is_open:
            self._try(self.sink.close, self._failed)

    def _open(self) -> None:
        if self._is_open or time.monotonic() < self._open_again_s:
            return
        self._open_again_s = time.monotonic() + _OPEN_AGAIN_S
        self.sink.open()
        self._is_open = True

    def _flush(self) -> None:
        started_s = time.monotonic()
        if self._is_open and started_s >= self._next_flush_s:
            try:
                self.sink.flush()
            finally:
                now_s = time.monotonic()
                self._next_flush_s = now_s + max(_FLUSH_EVERY_S, 10 * (now_s - started_s))

    def _try(self, step: Callable[..., None], *arguments: Any) -> None:
        try:
            step(*arguments)
        except Exception as error:  # whatever a library raises, it must not end the run
            if not self._warned:
                logger.warning(
                    "%s fails, so figures are missing there (the run continues, metrics.jsonl has them all): %s: %s",
                    self.sink.name, type(error).__name__, one_line(str(error), 500),
                )  # fmt: skip
            self._warned = True


def _mark(storage: Storage) -> str:
    """Return the run folder's random mark, creating it on first use; "" if it cannot be read or written."""
    try:
        if not storage.exists(MARK_NAME):
            storage.write_json(MARK_NAME, {"mark": uuid.uuid4().hex})
        return str(storage.read_json(MARK_NAME)["mark"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning(
            "%s in %s cannot be used, so loggers identify the run only by its path: %s",
            MARK_NAME,
            storage.uri,
            one_line(str(error)),
        )
        return ""


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Copy values as plain JSON types; values that JSON cannot represent become text."""

    def other(value: Any) -> Any:
        if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
            return value.item()  # numpy and torch scalars
        return str(value)

    text = json.dumps(values, default=other, skipkeys=True, ensure_ascii=False)
    # Servers accept UTF-8, which cannot represent half of a surrogate pair: replace it by its code.
    plain: dict[str, Any] = json.loads(re.sub("[\ud800-\udfff]", lambda m: rf"\\u{ord(m[0]):04x}", text))
    return plain
