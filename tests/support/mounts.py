"""File systems that refuse even root, who runs the tests in containers and whom permissions do not stop."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


def mounted(*arguments: str | Path) -> None:
    """Run `mount`, or skip the test where this user may not."""
    done = subprocess.run(["mount", *arguments], capture_output=True)
    if done.returncode:
        pytest.skip(f"no right to mount here: {done.stderr.decode().strip()}")


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte of one's own: to its limits root is bound too."""
    place = tmp_path / "mount"
    place.mkdir()
    mounted("-t", "tmpfs", "-o", "size=1m,nr_inodes=60", "s2l-test", place)
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.fixture
def read_only() -> Iterator[Callable[[Path], None]]:
    """Makes a folder with its contents read-only, by mounting it over itself."""
    made: list[Path] = []

    def make(folder: Path) -> None:
        mounted("--bind", folder, folder)
        made.append(folder)
        mounted("-o", "remount,bind,ro", folder)

    yield make
    for folder in made:
        subprocess.run(["umount", "-l", folder], check=True)
