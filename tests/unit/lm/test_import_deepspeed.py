"""How DeepSpeed is imported: what a killed compiler left behind, and what to do where it is missing."""

from __future__ import annotations

import os
import sys
import time

import pytest

from s2l_ray.lm.zero import DeepSpeedMissing, import_deepspeed


def test_the_lock_of_a_killed_compiler_is_forgotten_and_a_living_ones_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    dead, living = tmp_path / "async_io/lock", tmp_path / "py311_cpu/cpu_adam/lock"
    for lock in (dead, living):
        lock.parent.mkdir(parents=True)
        lock.touch()
    os.utime(dead, (time.time() - 3600,) * 2)
    import_deepspeed()
    assert not dead.exists()
    assert living.exists()


def test_without_deepspeed_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(DeepSpeedMissing, match=r'pip install "s2l_ray\[target\]"'):
        import_deepspeed()
