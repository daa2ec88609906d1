"""A folder on this machine for files that a command writes beside a run."""

from __future__ import annotations

import os
from pathlib import Path

from s2l_ray.errors import UserError, first_line, shown


def make_output_folder(folder: Path, option: str) -> None:
    """Create the folder if it is not there.

    Args:
        option: the option that names the folder, for messages.

    Raises:
        UserError: it cannot be created, or files in it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        why = "" if os.access(folder, os.W_OK | os.X_OK) else "you may not write there"
    except OSError as error:
        why = "a file has that name" if isinstance(error, FileExistsError) else error.strerror or first_line(error)
    if why:
        raise UserError(f"{shown(str(folder))} cannot be written to ({why}); choose another place with {option}")
