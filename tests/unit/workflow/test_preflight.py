"""Whatever a library raises before the start is an error of ours, which names the setting and the cure."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from s2l_ray.config import load_config
from s2l_ray.config.loggers import LoggersConfig
from s2l_ray.data import user_files
from s2l_ray.errors import InternalError, UserError, foreign_named
from s2l_ray.observability.loggers import LoggerError, check_loggers
from s2l_ray.stages.heldout.build import HeldOutError
from s2l_ray.testing.tiny import tiny_run_config
from s2l_ray.workflow.preflight import PreflightError, preflight

BROKEN = [
    "raise RuntimeError('no CUDA_HOME')", "None.spec", "raise TypeError('Descriptors cannot be created directly.')",
    "raise OSError('libfoo.so: no such file')", "import surely_not_there", "def",
]  # fmt: skip
Break = Callable[[str, str], None]


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Break]:
    """Puts a package in the place of the installed one."""
    made = []

    def put(package: str, code: str) -> None:
        made.append(package)
        for name in [n for n in sys.modules if n.split(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)
        (tmp_path / "lib" / package).mkdir(parents=True)
        (tmp_path / "lib" / package / "__init__.py").write_text(code + "\n")
        monkeypatch.syspath_prepend(tmp_path / "lib")

    yield put
    for package in made:
        sys.modules.pop(package, None)


def test_only_foreign_errors_are_renamed_and_never_lack_of_memory():
    for error in (ValueError("v"), KeyError("k"), OSError("o"), RecursionError()):
        named = pytest.raises(UserError, match=rf"^It cannot be: {type(error).__name__}.*\. Do that$")
        with named as caught, foreign_named(UserError, "It cannot be", "Do that"):
            raise error
        assert caught.value.__cause__ is error
    for own in (InternalError("i"), MemoryError("m"), KeyboardInterrupt()):
        with pytest.raises(type(own)), foreign_named(UserError, "It cannot be", "Do that"):
            raise own


@pytest.mark.parametrize("code", BROKEN)
@pytest.mark.parametrize(
    ("package", "changes", "cure"),
    [
        ("deepspeed", {"zero_stage": 2}, "set target.zero_stage=0"),
        ("peft", {"lora": {"rank": 4}}, "leave target.lora out"),
    ],
)
def test_a_package_that_does_not_import_is_said_before_the_start(broken: Break, tmp_path, package, changes, cure, code):
    tree = tiny_run_config(tmp_path / "run")
    config = load_config(tree | {"target": {**tree["proxy"], **changes}})
    broken(package, code)
    with pytest.raises(UserError) as caught:
        preflight(config)
    said = str(caught.value)
    assert package in said.lower()
    assert f"target.{next(iter(changes))}" in said
    assert cure in said


@pytest.mark.parametrize("code", BROKEN)
@pytest.mark.parametrize(
    ("package", "fields"),
    [
        ("wandb", {"wandb_project": "p"}), ("mlflow", {"mlflow_uri": "http://h:5000"}),
        ("tensorboard", {"tensorboard": True}),
    ],
)  # fmt: skip
def test_a_logger_whose_package_does_not_import_is_said(broken: Break, package, fields, code, monkeypatch):
    for name in [n for n in sys.modules if n.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    broken(package, code)
    with pytest.raises(LoggerError, match=r"nothing would be logged there.*leave the option out") as caught:
        check_loggers(LoggersConfig(**fields))
    assert f'"s2l_ray[{package}]"' in str(caught.value)


def test_a_logger_that_cannot_be_set_up_is_said(broken: Break, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    broken("wandb", "def setup():\n    raise OSError(30, 'Read-only file system')")
    with pytest.raises(LoggerError, match=r"wandb_project='p': .* cannot be set up here: OSError: .*Read-only"):
        check_loggers(LoggersConfig(wandb_project="p"))


def test_an_unreadable_netrc_is_no_login(tmp_path, monkeypatch):
    (tmp_path / "netrc").write_bytes(b"\xff\xfe machine api.wandb.ai")
    for name in [n for n in os.environ if n.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    import wandb

    wandb.teardown()
    with pytest.raises(LoggerError, match="nobody is logged in to Weights & Biases"):
        check_loggers(LoggersConfig(wandb_project="p"))


@pytest.mark.parametrize(
    "error", [OSError("input/output error"), KeyError("x"), UnicodeDecodeError("utf-8", b"", 0, 1, "w")]
)
def test_heldout_files_that_end_in_a_librarys_error_are_named(tmp_path, monkeypatch, error):
    def fail(*arguments: Any) -> str:
        raise error

    (tmp_path / "test.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    tree = tiny_run_config(tmp_path / "run", heldout__files={"mine": [str(tmp_path / "test.jsonl")]})
    config = load_config(tree | {"target": dict(tree["proxy"])})
    monkeypatch.setattr(user_files, "sample_format", fail)
    with pytest.raises(HeldOutError, match=rf"heldout\.files\.mine cannot be used: {type(error).__name__}"):
        preflight(config)


@pytest.mark.parametrize("depth", [600, 900, 100_000])
def test_a_deepspeed_file_of_any_depth_is_refused_in_words(tmp_path, depth):
    file = tmp_path / "deep.json"
    file.write_text('{"a":' * depth + "1" + "}" * depth)
    tree = tiny_run_config(tmp_path / "run")
    target = {**tree["proxy"], "zero_stage": 2, "deepspeed_config": str(file)}
    tree["resources"]["target"]["workers"] = 1
    with pytest.raises(UserError, match=r"target\.deepspeed_config='.*deep\.json'") as caught:
        preflight(load_config(tree | {"target": target}))
    assert len(str(caught.value)) < 2000


def test_a_run_folder_that_cannot_be_looked_at_is_said(tmp_path, monkeypatch):
    from s2l_ray.data import discovery

    def fail(uri: str) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(discovery, "run_folder_above", fail)
    with pytest.raises(PreflightError, match=r"run_dir=.* cannot be accessed: PermissionError"):
        preflight(load_config(tiny_run_config(tmp_path / "run")))
