"""Prepares a server for its first program: imports, import path, lock. Standard library only."""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import importlib.machinery
import importlib.util
import os
import resource
import sys
import sysconfig
from collections.abc import Sequence
from typing import Any

from .child import RESERVE_BYTES
from .landlock import landlock_abi, read_only_ruleset
from .lock import MAX_DESCRIPTORS, Lock, hide_memory
from .seccomp import supported_machine

_STANDARD = (
    "bisect", "bz2", "calendar", "cmath", "collections", "copy", "csv", "ctypes", "dataclasses", "datetime", "decimal",
    "enum", "fractions", "functools", "hashlib", "heapq", "itertools", "json", "lzma", "math", "multiprocessing",
    "numbers", "operator", "random", "re", "socket", "sqlite3", "ssl", "statistics", "string", "subprocess", "tempfile",
    "textwrap", "threading", "time", "typing", "urllib.request", "uuid", "zlib", "zoneinfo",
)  # fmt: skip
"""Modules to import in advance: common ones, and those whose libraries are where a program cannot read."""
_PARTS = {"numpy": ("numpy.linalg", "numpy.random", "numpy.polynomial", "numpy.fft")}
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")


class Unable(Exception):
    """This server cannot isolate programs, or cannot start; the message says why."""


def prepare(settings: dict[str, Any]) -> tuple[dict[str, Any], Lock]:
    """Import packages, restrict the import path to what programs may use, and prepare the lock → (report, lock)."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    before = set(sys.modules)
    versions = _import_all(settings["packages"], settings["search"])
    if (threads := len(os.listdir("/proc/self/task"))) != 1:
        raise Unable(f"its packages have started {threads - 1} threads: {sorted(versions)}")
    readable = [*_standard_library(), *_package_files({*sys.modules} - before | {*versions})]
    _close_import_path()
    abi, fault = _abi()
    locked = settings["mode"] in ("auto", "bwrap")
    if settings["mode"] == "auto" and not abi:
        raise Unable(f"Landlock: {fault}")
    if locked and supported_machine() is None:
        raise Unable(f"seccomp: no table of system calls for {os.uname().machine}")
    try:
        ruleset = read_only_ruleset(abi, readable) if locked and abi else None
    except OSError as error:
        raise Unable(f"Landlock: {_code(error)}") from error
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(MAX_DESCRIPTORS, hard), hard))
    hide_memory()
    machine = supported_machine() if locked else None
    gc.collect()
    gc.freeze()  # so that garbage collection in programs does not copy the server's pages
    gc.disable()
    lock = Lock(settings["seconds"], (settings["memory_mb"] << 20) + RESERVE_BYTES, ruleset, machine)
    return {"packages": versions, "landlock_abi": abi, "landlock_fault": fault, "machine": machine}, lock


def _import_all(packages: Sequence[str], search: Sequence[str]) -> dict[str, str | None]:
    """Package → its version; None if it is not installed."""
    for name in _STANDARD:
        with contextlib.suppress(ImportError):  # built without a library
            importlib.import_module(name)
    sys.path += [folder for folder in search if folder not in sys.path]
    versions: dict[str, str | None] = {}
    for name in packages:
        if importlib.util.find_spec(name) is None:
            versions[name] = None
            continue
        try:
            module = importlib.import_module(name)
            for part in _PARTS.get(name, ()):
                importlib.import_module(part)
            if name == "math_verify":
                _read_latex(module)
        except Exception as error:
            raise Unable(f"package {name!r} cannot be imported: {type(error).__name__}: {error}") from error
        versions[name] = str(getattr(module, "__version__", "")) or _installed_version(name)
    return versions


def _read_latex(math_verify: Any) -> None:
    """Build the parser's tables, which happens with the first text parsed, once here instead of in every process."""
    latex = [math_verify.LatexExtractionConfig()]
    for text in (r"$\frac{1}{2}x^2+\sqrt{3}$", r"$(1, 2)$", r"$\begin{pmatrix} 1 \\ 2 \end{pmatrix}$"):
        math_verify.parse(text, extraction_config=latex, parsing_timeout=None, raise_on_error=False)


def _installed_version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name.replace("_", "-"))
    except PackageNotFoundError:
        return "unknown"


def _standard_library() -> list[str]:
    """The standard library's modules, one by one, because other packages are in the same folder."""
    paths = []
    for folder in {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib")}:
        entries = os.listdir(folder) if os.path.isdir(folder) else []
        paths += [os.path.join(folder, name) for name in entries if name not in ("site-packages", "dist-packages")]
    return paths


def _package_files(modules: set[str]) -> list[str]:
    """Folders and files of the packages among these modules, with the libraries next to them."""
    paths = set()
    for name in {name.partition(".")[0] for name in modules}:
        module = sys.modules.get(name)
        if module is None or name in sys.stdlib_module_names:
            continue
        folders = list(getattr(module, "__path__", ()))
        for folder in folders:
            paths |= {folder, f"{folder}.libs"}
        if not folders and getattr(module, "__file__", None):
            paths.add(str(module.__file__))
    return [path for path in paths if os.path.exists(path)]


def _close_import_path() -> None:
    """Make packages that are not allowed look uninstalled to a program, rather than unreadable."""
    ours = [os.path.realpath(folder) for kind in ("stdlib", "platstdlib") if (folder := sysconfig.get_path(kind))]
    inside = [p for p in sys.path if any(os.path.realpath(p) in (o, os.path.join(o, "lib-dynload")) for o in ours)]
    sys.path[:] = inside
    sys.meta_path[:] = [
        importlib.machinery.BuiltinImporter, importlib.machinery.FrozenImporter, importlib.machinery.PathFinder,
    ]  # fmt: skip
    with contextlib.suppress(ImportError):
        importlib.util.find_spec("_not_there_")  # caches the folder listings, which a program could not read


def _abi() -> tuple[int, str]:
    try:
        return landlock_abi(), ""
    except OSError as error:
        return 0, _code(error)


def _code(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error.errno))
