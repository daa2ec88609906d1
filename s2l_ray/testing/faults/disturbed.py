"""Run commands of `s2l` with faults, and compare the results with those of undisturbed runs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

from s2l_ray.testing.faults.fault_plan import SURVIVED, Fault
from s2l_ray.testing.faults.striker import Striker
from s2l_ray.testing.processes import heed_signals
from s2l_ray.testing.ray_head import kill_family

HOOK = Path(__file__).parent / "hook"
ROOT = Path(__file__).parents[3]
HANGS_AFTER_S = 900
"""The tiny run takes half a minute, or several minutes on a machine with ten times more work than cores."""


@dataclass(frozen=True)
class Outcome:
    """Outcome of a command."""

    code: int
    output: str
    struck: dict[Fault, str]
    """What each fault killed; faults that were not reached are missing."""
    seconds: float


@dataclass(frozen=True)
class Workplace:
    """Folder for consecutive runs under the same path, because some outputs contain the path."""

    base: Path

    @property
    def run(self) -> Path:
        return self.base / "run"

    def config(self, tree: dict[str, Any]) -> Path:
        path = self.base / "config.json"
        path.write_text(json.dumps(tree))
        return path

    def move_run(self, name: str) -> Path:
        return Path(shutil.move(self.run, self.base / name))

    def delete_run(self) -> None:
        shutil.rmtree(self.run, ignore_errors=True)

    def s2l(self, *arguments: str | Path, faults: Sequence[Fault] = (), record: Path | None = None) -> Outcome:
        """Run `s2l ARGUMENTS` to its end."""
        return self.wait(*self.start(*arguments, faults=faults, record=record), faults)

    def at_once(
        self, commands: Mapping[str, Sequence[str | Path]], faults: Mapping[str, Sequence[Fault]]
    ) -> dict[str, Outcome]:
        """Run several commands of `s2l`, given by name, at the same time."""
        with ThreadPoolExecutor(len(commands)) as pool:
            running = {
                name: pool.submit(self.s2l, *command, faults=faults.get(name, ())) for name, command in commands.items()
            }
            return {name: future.result() for name, future in running.items()}

    def wait(self, driver: subprocess.Popen[bytes], folder: Path, faults: Sequence[Fault]) -> Outcome:
        """Wait until a command ends, and meanwhile kill what its faults name.

        Args:
            driver: the command's process, from `start`.
            folder: the folder of its output, from `start`.
            faults: the faults that `start` was given.

        Raises:
            AssertionError: if the command still runs after `HANGS_AFTER_S` seconds.
        """
        started, log, striker = time.monotonic(), folder / "log.txt", Striker(driver.pid, folder, faults)
        while driver.poll() is None:
            striker.look()
            if time.monotonic() - started > HANGS_AFTER_S:
                where = subprocess.run(["py-spy", "dump", "--pid", str(driver.pid)], capture_output=True, text=True)
                kill_family(psutil.Process(driver.pid))
                raise AssertionError(f"the command hangs after {faults}: {log.read_text()}\n{where.stdout}")
            time.sleep(0.005)
        return Outcome(driver.returncode, log.read_text(errors="replace"), striker.struck, time.monotonic() - started)

    def start(
        self, *arguments: str | Path, faults: Sequence[Fault] = (), record: Path | None = None
    ) -> tuple[subprocess.Popen[bytes], Path]:
        """Start a command, and return its process and the folder of its output and of its faults' markers."""
        folder = Path(tempfile.mkdtemp(dir=self.base, prefix="c"))
        what = {"record": record and str(record), "faults": [asdict(fault) for fault in faults]}
        plan = {"run": str(self.run), "markers": str(folder), **what}
        unset = ("RAY_ADDRESS", "S2L_FAULT_DRIVER")
        environment = {k: v for k, v in os.environ.items() if k not in unset} | {
            "PYTHONPATH": f"{HOOK}:{ROOT}",
            "S2L_FAULT_PLAN": json.dumps(plan),
            "TMPDIR": str(self.tmp),
            "RAY_TMPDIR": str(self.ray_tmp),
            "RAY_worker_register_timeout_seconds": "300",  # the default of 60 s is too short on a busy machine
        }
        command = [sys.executable, "-m", "s2l_ray.cli", *map(str, arguments)]
        with (folder / "log.txt").open("wb") as out:
            driver = subprocess.Popen(
                command, env=environment, stdout=out, stderr=out, cwd=self.cwd, preexec_fn=heed_signals
            )
        return driver, folder

    @property
    def cwd(self) -> Path:
        return self.base / "cwd"

    @property
    def tmp(self) -> Path:
        return self.base / "tmp"

    @property
    def ray_tmp(self) -> Path:
        return self.base / "r"

    def processes(self) -> list[psutil.Process]:
        """Return the processes of this workplace's commands that are still alive.

        Ray's processes have the folder in their command lines, and workers run in its working folder.
        """
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                if str(self.base) in " ".join([process.cwd(), *process.cmdline()]):
                    found.append(process)
        return found


@contextlib.contextmanager
def workplace() -> Iterator[Workplace]:
    """Create a workplace, and delete it after the block, killing all processes that still run in it.

    Its name is short because the paths of Ray's sockets, which are below it, are limited in length.
    """
    place = Workplace(Path(tempfile.mkdtemp(prefix="s2lf")))
    for folder in (place.cwd, place.tmp, place.ray_tmp):
        folder.mkdir()
    try:
        yield place
    finally:
        for process in place.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        shutil.rmtree(place.base, ignore_errors=True)


# --- what must hold -------------------------------------------------------------------------------------------------

NOT_COMPARED = {
    "metrics.jsonl": "the record of what happened, with times",
    "sweep/logs": "records of what happened in trials, with times",
    "sweep/results.csv": "the same table as results.parquet",
    "sweep/files.json": "digests of tables that hold times",
    "sweep/cost": "a picture of what it cost",
    "report/index.html": "the facts as a page, with times",
    "locks": "must be empty, which is checked apart",
}
VOLATILE = {
    "started_at", "finished_at", "wall_seconds", "device_seconds", "peak_memory_bytes", "train_seconds",
    "score_seconds", "mfu", "cost", "restarts",
}  # fmt: skip
"""Fields of manifests and reports that depend on time, memory and what was killed."""


def contents(run: Path) -> dict[str, Any]:
    """Return the content of every file of a run for comparison, by its path in the run.

    Volatile fields are removed from JSON and tables; of all other files the content is a digest.
    """
    found: dict[str, Any] = {}
    for path in sorted(p for p in run.rglob("*") if p.is_file()):
        name = path.relative_to(run).as_posix()
        if name.startswith(tuple(NOT_COMPARED)):
            continue
        content = path.read_bytes()
        if name.endswith(("manifest.json", "run.json", "report.json", "report/facts.json")):
            found[name] = _plain(json.loads(content))
            found[name].pop("digest", None)  # covers the manifest's times; the digests of its files are compared
            if name == "report/facts.json":
                found[name].pop("uri")  # the run's location
                # Curves are read from metrics.jsonl, which may lack the last steps before a checkpoint if the driver
                # was killed.
                found[name].pop("training")
        elif name == "sweep/results.parquet":
            found[name] = _plain(pq.read_table(path).to_pylist())
        else:
            found[name] = hashlib.blake2b(content, digest_size=8).hexdigest()
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if k not in VOLATILE}
    return [_plain(v) for v in value] if isinstance(value, list) else value


def differences(found: Any, expected: Any, where: str = "") -> list[str]:
    if isinstance(found, dict) and isinstance(expected, dict):
        return [
            line
            for key in sorted(found.keys() | expected.keys())
            for line in (
                differences(found[key], expected[key], f"{where}/{key}")
                if key in found and key in expected
                else [f"{where}/{key} is only in the {'disturbed' if key in found else 'undisturbed'} run"]
            )
        ]
    if isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        return [
            d for i, (f, e) in enumerate(zip(found, expected, strict=True)) for d in differences(f, e, f"{where}[{i}]")
        ]
    return [] if found == expected else [f"{where}: {str(found)[:200]} in the disturbed run, not {str(expected)[:200]}"]


def complete_files(run: Path) -> dict[Path, tuple[int, int]]:
    """Return the files of complete stages and snapshots, with data that change if they are written again."""
    folders = [p.parent for p in run.glob("*/*/manifest.json")]
    folders += [p.parent for p in run.glob("proxy/*/snapshots/*/manifest.json")]
    files = [p for folder in folders for p in folder.rglob("*") if p.is_file() and "ray_train" not in p.parts]
    return {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in files}


def assert_not_made_again(before: dict[Path, tuple[int, int]], run: Path) -> None:
    after = complete_files(run)
    again = [str(p.relative_to(run)) for p, was in before.items() if p.name[0] != "." and after.get(p) != was]
    assert not again, f"was complete and was made again: {again[:10]}"


def assert_nothing_left(place: Workplace, seconds: float = 90) -> None:
    """Check that a complete run has left no temporary files, locks, processes or live Ray sessions."""
    deadline = time.monotonic() + seconds
    while (living := place.processes()) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not living, f"processes live on: {[' '.join(p.cmdline())[:200] for p in living]}"
    temps = [str(p.relative_to(place.run)) for p in place.run.rglob(".tmp-*")]
    # Attempts to take the lock leave temporary files, deleted only when minutes old: others may be taking it.
    assert not [t for t in temps if not t.startswith("locks/")], f"temp files: {temps}"
    assert not list(place.run.glob("locks/[!.]*")), "locks"
    for folder in ("stage_locks", "sweep/ray_tune"):
        assert not (place.run / folder).exists(), folder
    working = [str(p) for p in place.run.glob("*/*/ray_train")]
    assert not working, f"working state: {working}"
    left = sorted(p.name for p in place.tmp.iterdir() if not p.name.startswith("torchinductor_"))  # torch's own cache
    assert not left, f"in TMPDIR: {left}"


def assert_ends_well(outcome: Outcome) -> None:
    """Check that errors are reported in one piece, stops have their own exit code, and a lost worker ends nothing."""
    said, victims = outcome.output, {fault.victim for fault in outcome.struck}
    assert "Traceback" not in said, said
    codes = {"SIGTERM": 143, "SIGINT": 130, "tree": -signal.SIGKILL, "driver": -signal.SIGKILL}
    expected = {codes.get(victim, 1) for victim in victims - set(SURVIVED)} or {0}
    assert outcome.code in expected, f"exit code {outcome.code}, not {expected}: {said[-3000:]}"


def chain(place: Workplace, faults: Sequence[Fault], *arguments: str | Path) -> list[Fault]:
    """Repeat a command until it succeeds, each time with the faults that have not struck yet.

    After each attempt, check that complete files were not written again. A command that resumes where another ended may
    never reach some of the faults.

    Returns:
        The faults that struck.
    """
    struck: list[Fault] = []
    left = list(faults)
    while left:
        before = complete_files(place.run) if place.run.exists() else {}
        outcome = place.s2l(*arguments, faults=left)
        print(f"{outcome.seconds:6.1f} s  code {outcome.code}")
        for fault, victims in outcome.struck.items():
            print(f"    {fault}: {victims}", flush=True)
        assert_not_made_again(before, place.run)
        if outcome.code == -signal.SIGTERM and "SIGTERM" in {fault.victim for fault in outcome.struck}:
            assert_nothing_left(place)  # the signal came when the command was done and only the process had to end
        else:
            assert_ends_well(outcome)
        struck += outcome.struck
        left = [fault for fault in left if fault not in outcome.struck]
        if outcome.code == 0:
            break
    return struck
