"""Destinations of experiment loggers: TensorBoard and Weights & Biases here, MLflow in a separate file.

The libraries are optional extras and are imported inside functions.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2l_ray.storage.folder import Storage
from s2l_ray.storage.scratch import new_scratch_prefix
from s2l_ray.text.display import one_line

logger = logging.getLogger(__name__)

_FINISH_WAIT_S = 50.0
"""How long Weights & Biases may take to deliver the last figures (seconds); less than `Loggers.close` waits."""


@dataclass(frozen=True)
class Identity:
    """Identity of a stage of a run in experiment trackers."""

    id: str
    """Id that is the same in every process working on this stage of this run folder."""
    run_name: str
    stage_label: str
    folder: str
    """URI of the run's folder, without credentials."""

    @property
    def title(self) -> str:
        return f"{self.run_name}/{self.stage_label}"


@dataclass(frozen=True)
class Entry:
    """Figures logged at one step."""

    step: int
    time_s: float
    """Seconds since 1970."""
    values: dict[str, float]
    texts: dict[str, str]
    """Final figures that are not numbers."""
    final: bool = False


class Sink:
    """One destination, used by one thread. Every method may raise; the caller ensures that the run continues."""

    name: str

    def open(self) -> None:
        """Open the destination; called again later if it fails."""

    def write(self, entries: Sequence[Entry]) -> None:
        raise NotImplementedError

    def flush(self) -> None:
        """Deliver what is only on this machine; called from time to time, and before `close`."""

    def close(self, failed: bool) -> None:
        """Close the destination after everything has been written."""


class Mirror:
    """Local folder for libraries that need one, whose files are copied to a storage folder."""

    def __init__(self, storage: Storage):
        self.storage = storage
        self.folder = Path(tempfile.mkdtemp(prefix=new_scratch_prefix()))
        self._copied: dict[str, tuple[int, int]] = {}  # name → (size, mtime_ns)

    def copy(self) -> bool:
        """Copy the files that changed since the last call, except links, and return whether there were any."""
        changed = False
        for path in sorted(self.folder.rglob("*")):
            if path.is_symlink() or not path.is_file():
                continue
            stat, name = path.stat(), path.relative_to(self.folder).as_posix()
            if self._copied.get(name) == (stat.st_size, stat.st_mtime_ns):
                continue
            with open(path, "rb") as source, self.storage.atomic_output(name) as target:
                shutil.copyfileobj(source, target)
            self._copied[name] = (stat.st_size, stat.st_mtime_ns)
            changed = True
        return changed

    def close(self, quiet_s: float = 0.0) -> None:
        """Copy the rest and remove the local folder; if that fails, the folder is kept, with a warning.

        Args:
            quiet_s: how long nothing must have changed before the end, if another process writes there (seconds).
        """
        try:
            self.copy()
            quiet_since_s = time.monotonic()
            while time.monotonic() - quiet_since_s < quiet_s:
                time.sleep(0.1)
                if self.copy():
                    quiet_since_s = time.monotonic()
        except OSError as error:
            # Renamed, because scratch folders of processes that have ended are deleted.
            kept = tempfile.mkdtemp(prefix="s2l-loggers-")
            self.folder = self.folder.rename(kept)
            logger.warning(
                "Logs could not be copied to %s and stay in %s: %s", self.storage.uri, self.folder, one_line(str(error))
            )
        else:
            shutil.rmtree(self.folder, ignore_errors=True)


class TensorBoard(Sink):
    """Event files, one per process, written in place on local disks, otherwise locally and copied from time to time."""

    name = "TensorBoard"

    def __init__(self, identity: Identity, storage: Storage, settings: Mapping[str, Any]):
        self.storage, self.settings = storage.sub("tensorboard", identity.stage_label), settings
        self._mirror: Mirror | None = None
        self._writer: Any = None
        self._resumed = False

    def open(self) -> None:
        self._resumed = bool(self.storage.list())

    def write(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            writer = self._writer or self._start(None if entry.final else entry.step)
            prefix = "summary/" if entry.final else ""
            for name, value in entry.values.items():
                writer.add_scalar(prefix + name, value, entry.step, entry.time_s)
            for name, text in entry.texts.items():
                writer.add_text(prefix + name, text, entry.step, entry.time_s)

    def _start(self, first_step: int | None) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        if not self.storage.is_local:
            self._mirror = self._mirror or Mirror(self.storage)
        folder = self._mirror.folder if self._mirror else self.storage.local_path()
        # An interrupted run continues from a checkpoint: purge_step hides what it had logged after that.
        purge_step = first_step if self._resumed else None
        self._writer = SummaryWriter(str(folder), purge_step=purge_step, flush_secs=10)
        lines = json.dumps(self.settings, indent=2, ensure_ascii=False).split("\n")
        self._writer.add_text("settings", "\n".join(f"    {line}" for line in lines), first_step or 0)
        return self._writer

    def flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()
        if self._mirror is not None:
            self._mirror.copy()

    def close(self, failed: bool) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._mirror is not None:
            self._mirror.close()


class WandB(Sink):
    """Weights & Biases run; the library's own process sends the figures, or writes them to disk when offline."""

    name = "Weights & Biases"

    def __init__(self, identity: Identity, storage: Storage, settings: Mapping[str, Any], project: str):
        self.identity, self.storage, self.settings, self.project = identity, storage, settings, project
        self._mirror: Mirror | None = None
        self._run: Any = None

    def open(self) -> None:
        import wandb

        if not self.storage.is_local and self._mirror is None:
            self._mirror = Mirror(self.storage)
        folder = self._mirror.folder if self._mirror else self.storage.local_path()
        folder.mkdir(parents=True, exist_ok=True)  # otherwise, wandb would silently use the system's temporary folder
        # Terminal output, command line, git remote and code can contain credentials, which would not be masked.
        private = wandb.Settings(
            console="off", save_code=False, disable_code=True, disable_git=True, x_disable_meta=True, quiet=True
        )
        if "finish_timeout" in wandb.Settings.model_fields and "WANDB_FINISH_TIMEOUT" not in os.environ:
            # Without this, the driver, and with it a cluster, would wait hours for an unreachable server. What was not
            # sent stays in the run's folder for `wandb sync`.
            private.finish_timeout = _FINISH_WAIT_S
        self._run = wandb.init(
            project=self.project,
            id=self.identity.id,
            resume="allow",
            reinit="create_new",  # neither end nor take over a run that others have open in this process
            name=self.identity.title,
            group=self.identity.run_name,
            job_type=self.identity.stage_label,
            notes=f"Run folder: {self.identity.folder}",
            config=dict(self.settings),
            allow_val_change=True,
            dir=str(folder),
            settings=private,
        )
        # wandb's own step only increases: it would drop what a resumed run logs again, and evaluations of older steps.
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def write(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if entry.final:
                self._run.summary.update({**entry.values, **entry.texts})
            else:
                self._run.log({**entry.values, "step": entry.step})

    def flush(self) -> None:
        if self._mirror is not None and self._run is not None and self._run.offline:
            self._mirror.copy()

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))
        if self._mirror is not None:
            # `finish` does not wait for wandb's process to write the end of the file (with 0.31, once in ten times).
            self._mirror.close(quiet_s=3.0)


def flat(values: Mapping[str, Any], separator: str) -> Iterator[tuple[str, Any]]:
    """Flatten nested mappings into pairs (`a<separator>b`, value)."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}{separator}{name}", leaf) for name, leaf in flat(value, separator))
        else:
            yield str(key), value


def as_text(value: Any) -> str:
    """Return text unchanged, and anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
