"""The process that compares LaTeX: it finds what the asking process finds, and says early what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PACKAGES = Path(sysconfig.get_path("purelib"))
INTERPRETER = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
PROGRAM = """
from s2l_ray.evaluation.answers.symbolic import ProcessComparer
with ProcessComparer() as compare:
    compare.start()
    print(compare("\\\\frac{1}{3}", "\\\\frac{2}{6}"))
"""
pytestmark = pytest.mark.skipif(
    sys.prefix == sys.base_prefix, reason="needs an interpreter without the packages, beside a virtual environment's"
)


def run(program: str, folder: Path, where: Path) -> subprocess.CompletedProcess[str]:
    """Run a program by an interpreter that has its packages from PYTHONPATH alone, as on many clusters."""
    environment = {"PATH": os.defpath, "PYTHONPATH": f"{folder}:{ROOT}"}
    return subprocess.run(
        [INTERPRETER, "-c", program], cwd=where, env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def without_math_verify(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all packages but math-verify."""
    folder = tmp_path_factory.mktemp("packages")
    for entry in PACKAGES.iterdir():
        if not entry.name.startswith("math_verify"):
            folder.joinpath(entry.name).symlink_to(entry)
    return folder


def test_packages_on_the_python_path_are_found_and_files_beside_the_user_are_not(tmp_path: Path) -> None:
    tmp_path.joinpath("mpmath.py").write_text("raise SystemExit('imported from the working folder')")
    done = run(PROGRAM, PACKAGES, tmp_path)
    assert (done.stdout, done.stderr) == ("equal\n", "")


def test_a_missing_package_is_named_before_anything_is_compared(without_math_verify: Path, tmp_path: Path) -> None:
    done = run(PROGRAM, without_math_verify, tmp_path)
    assert done.stdout == ""
    assert_named(done.stderr)


def test_exported_rules_miss_a_package_when_they_are_imported(without_math_verify: Path, tmp_path: Path) -> None:
    for rule, fails in (("math", True), ("number", False)):
        program = f"from s2l_ray.workflow.export_lm_eval import rules_module; exec(rules_module(['{rule}']))"
        done = run(program, without_math_verify, tmp_path)
        assert bool(done.returncode) == fails, done.stderr
        if fails:
            assert_named(done.stderr)


def assert_named(errors: str) -> None:
    said = errors.splitlines()[-1]
    assert "EnvironmentFault" in said
    assert "(ModuleNotFoundError: No module named 'math_verify')" in said
    assert "pip install 's2l_ray[evaluate]'" in said
