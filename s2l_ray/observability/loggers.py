"""Experiment loggers, on the driver only: the figures of a stage for TensorBoard, Weights & Biases and MLflow.

`metrics.jsonl` is the run's record; these show it elsewhere. They never hold a run up and never end it: each works in
a thread of its own, and what it cannot deliver is lost to it, with one warning.
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
"""Entries that one logger keeps while its server does not answer; beyond that the oldest are lost."""
_FLUSH_EVERY_S = 30.0
"""Between copies to an object store (seconds); ten times a copy's own duration if that is more."""
_OPEN_AGAIN_S = 300.0
"""After a logger could not start, until it tries again (seconds)."""
_CLOSE_WAIT_S = 60.0
"""How long `close` waits for what is still under way (seconds)."""


class Loggers:
    """The loggers of one stage. A context manager: an exception that ends the block marks the stage as failed.

    A run that goes on after its driver died goes on in the same Weights & Biases and MLflow runs. They are named after
    the run folder's URI, the stage's label and a random mark in the folder (`loggers.json`), so that neither a folder
    made anew nor an equal path on another machine continues somebody else's curves.
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
        """Figures at a step; NaN and infinities are figures too, None is left out. Returns at once."""
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
                    logger.warning("%s is a %s, no number: loggers leave it out", name, type(value).__name__)
                self._refused.add(name)
        self._last_step = int(step)
        self._put(Entry(self._last_step, time.time(), numbers, {}))

    def summary(self, **values: Any) -> None:
        """Final figures and texts; mappings are taken apart (`heldout/macro`)."""
        numbers: dict[str, float] = {}
        texts: dict[str, str] = {}
        for name, value in flat(_plain(values), "/"):
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                numbers[name] = float(value)
            elif value is not None:
                texts[name] = as_text(value)
        self._put(Entry(self._last_step, time.time(), numbers, texts, final=True))

    def close(self, failed: bool = False) -> None:
        """Deliver what is waiting and end; waits a minute at most."""
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
    """One sink and its thread: servers may be slow, and MLflow's client repeats a request for minutes."""

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
                "%s did not take the last figures within %d s; the run does not wait for it any longer",
                self.sink.name, _CLOSE_WAIT_S,
            )  # fmt: skip

    def _work(self) -> None:
        while True:
            self._try(self._open)
            closing = self._closing  # before the entries are taken: none comes after it
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
        except Exception as error:  # whatever a library raises: figures are not worth a run
            if not self._warned:
                logger.warning(
                    "%s fails, so figures are missing there (the run continues, metrics.jsonl has them all): %s: %s",
                    self.sink.name, type(error).__name__, one_line(str(error), 500),
                )  # fmt: skip
            self._warned = True


def _mark(storage: Storage) -> str:
    """The run folder's random mark, made at the first time. Empty if the folder does not give it."""
    try:
        if not storage.exists(MARK_NAME):
            storage.write_json(MARK_NAME, {"mark": uuid.uuid4().hex})
        return str(storage.read_json(MARK_NAME)["mark"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning(
            "%s in %s cannot be used, loggers go by the path alone: %s", MARK_NAME, storage.uri, one_line(str(error))
        )
        return ""


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy as JSON holds it; what JSON lacks becomes text."""

    def other(value: Any) -> Any:
        if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
            return value.item()  # numpy and torch scalars
        return str(value)

    text = json.dumps(values, default=other, skipkeys=True, ensure_ascii=False)
    # Servers take text in UTF-8, which has no place for half of a surrogate pair: its code stands there instead.
    plain: dict[str, Any] = json.loads(re.sub("[\ud800-\udfff]", lambda m: rf"\\u{ord(m[0]):04x}", text))
    return plain
