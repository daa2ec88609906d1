"""Progress display of a run: a bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import collections
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from s2l_ray.observability.metrics_log import MetricsLog, read_metrics
from s2l_ray.text.display import printable
from s2l_ray.text.formats import format_count, format_duration, format_rate, format_value
from s2l_ray.text.redact import redact_text

__all__ = [
    "MetricsLog",
    "Progress",
    "StageProgress",
    "format_count",
    "format_duration",
    "format_rate",
    "format_value",
    "read_metrics",
]

_RATE_WINDOW_S = 30.0


class Progress:
    """Reports stages on a stream.

    Args:
        stream: output stream; once it is closed or broken, it is ignored.
        interactive: True for a moving bar, False for plain lines; None: a bar if the stream is a terminal.
        plain_every_s: shortest interval between plain lines of a stage (seconds), except for the last one.
        clock: returns seconds; tests pass their own.
    """

    def __init__(
        self,
        stream: IO[str] | None = None,
        interactive: bool | None = None,
        plain_every_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._stream = _SafeStream(sys.stdout if stream is None else stream)
        if interactive is None:
            interactive = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self.interactive, self.plain_every_s, self.clock = interactive, plain_every_s, clock
        self._mutex = threading.RLock()
        self._console = Console(file=cast(IO[str], self._stream), force_terminal=True) if interactive else None
        self._bars: RichProgress | None = None
        self._open_stages = 0

    def say(self, text: str) -> None:
        """Print a line (above the bar, if there is one), with credentials masked and invisible characters as codes."""
        text = printable(redact_text(text), keep="\n")
        with self._mutex:
            if self._console is not None:
                self._console.print(Text(text), highlight=False, soft_wrap=True)  # no markup, no emoji codes
            else:
                self._stream.write(text + "\n")
                self._stream.flush()

    @contextlib.contextmanager
    def stage(self, name: str, total: float | None, unit: str, done: float = 0) -> Iterator[StageProgress]:
        """Report one stage while the block runs, always with a last line, even if the block ends with an exception.

        Args:
            name: name of the stage, shown first.
            total: total number of units; None if unknown.
            unit: name of the units, in the plural: `steps`, `examples`.
            done: units done before (in a resumed stage), which do not count for the rate.
        """
        stage = StageProgress(self, name, total, unit, done)
        self._begin(stage)
        try:
            yield stage
        except BaseException:
            stage.outcome = "stopped"
            raise
        finally:
            self._end(stage)

    def _begin(self, stage: StageProgress) -> None:
        with self._mutex:
            self._open_stages += 1
            if self._console is None:
                return
            if self._bars is None:
                columns = (TextColumn("{task.description}", style="bold", markup=False), BarColumn(bar_width=24),
                           TextColumn("{task.fields[text]}", markup=False))  # fmt: skip
                self._bars = RichProgress(*columns, console=self._console, refresh_per_second=5)
                self._bars.start()
            stage.task = self._bars.add_task(printable(stage.name), total=stage.total, text="")

    def _show(self, stage: StageProgress, last: bool) -> None:
        with self._mutex:
            if self._bars is not None and stage.task is not None:
                self._bars.update(stage.task, total=stage.total, completed=stage.done, text=printable(stage.text(last)))
            elif last or self.clock() - stage.last_line_s >= self.plain_every_s:
                stage.last_line_s = self.clock()
                self.say(f"[{stage.name}] {stage.text(last)}")

    def _end(self, stage: StageProgress) -> None:
        with self._mutex:
            self._show(stage, last=True)
            self._open_stages -= 1
            if self._bars is not None and self._open_stages == 0:
                self._bars.stop()
                self._bars = None


class StageProgress:
    """Counter of one stage; `update` may be called from any thread, as often as desired."""

    def __init__(self, reporter: Progress, name: str, total: float | None, unit: str, done: float):
        self.name, self.total, self.unit, self.done = name, total, unit, done
        self.shown: dict[str, Any] = {}
        self.outcome = ""
        self.task: Any = None
        self._reporter = reporter
        self._start_s = self.last_line_s = reporter.clock()
        self._first_done = done
        self._history: collections.deque[tuple[float, float]] = collections.deque([(self._start_s, done)])

    def update(
        self, done: float | None = None, *, advance: float = 0, total: float | None = None, **shown: Any
    ) -> None:
        """Set `done` (units so far) or `advance` it, correct the total, and set named values shown at the end."""
        with self._reporter._mutex:
            self.done = (self.done if done is None else done) + advance
            self.total = self.total if total is None else total
            self.shown.update(shown)
            now_s = self._reporter.clock()
            if now_s - self._history[-1][0] >= 0.2 or len(self._history) == 1:
                self._history.append((now_s, self.done))
            while len(self._history) > 2 and now_s - self._history[1][0] > _RATE_WINDOW_S:
                self._history.popleft()
            self._reporter._show(self, last=False)

    def text(self, last: bool = False) -> str:
        """Format the line: `1,200/5,000 steps  24%  81 steps/s  47 s left  loss 2.31`; the last line differs."""
        elapsed_s = self._reporter.clock() - self._start_s
        known = self.total is not None and self.total > 0
        parts = [f"{_number(self.done)}/{_number(self.total)} {self.unit}" if self.total is not None else
                 f"{_number(self.done)} {self.unit}"]  # fmt: skip
        if known:
            # Rounded down, so that 100% means done.
            parts.append(f"{int(100 * self.done / cast(float, self.total))}%")
        rate = (self.done - self._first_done) / elapsed_s if last and elapsed_s > 0 else self._recent_rate()
        if rate > 0:
            parts.append(format_rate(rate, self.unit))
        if last:
            parts.append(f"{self.outcome or 'done'} in {format_duration(elapsed_s)}")
        elif known and rate > 0:
            parts.append(f"{format_duration((cast(float, self.total) - self.done) / rate)} left")
        return "  ".join(parts + [f"{name} {format_value(value)}" for name, value in self.shown.items()])

    def _recent_rate(self) -> float:
        (start_s, before) = self._history[0]
        elapsed_s = self._reporter.clock() - start_s
        return (self.done - before) / elapsed_s if elapsed_s > 0 else 0.0


class _SafeStream:
    """Text stream that ignores errors, because a missing reader (`| head`, a closed terminal) must not end a run."""

    def __init__(self, stream: IO[str]):
        self._inner = stream
        self._broken = False

    def write(self, text: str) -> int:
        if not self._broken:
            try:
                self._inner.write(text)
            except UnicodeEncodeError:
                encoding = self.encoding
                self.write(text.encode(encoding, "replace").decode(encoding))
            except (OSError, ValueError):  # ValueError: closed
                self._broken = True
        return len(text)

    def flush(self) -> None:
        if not self._broken:
            try:
                self._inner.flush()
            except (OSError, ValueError):
                self._broken = True

    def isatty(self) -> bool:
        try:
            return self._inner.isatty()
        except (AttributeError, OSError, ValueError):
            return False

    def fileno(self) -> int:
        return self._inner.fileno()

    @property
    def encoding(self) -> str:
        return getattr(self._inner, "encoding", None) or "utf-8"


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:,.0f}"
