"""The errors of the package: one root, readable messages, exit codes that tell whether anything had started."""

from __future__ import annotations

import importlib
import pickle
import pkgutil
import tracemalloc
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

import s2l_ray
from s2l_ray import cli, errors
from s2l_ray.artifacts.models import Artifact
from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.runner import open_runner
from s2l_ray.artifacts.stage import StageResult, StageSpec
from s2l_ray.config import load_config
from s2l_ray.errors import MAX_MESSAGE, DataError, EnvironmentFault, InternalError, S2LError, UserError
from s2l_ray.execution.failures import final_error, is_final
from s2l_ray.observability.progress import Progress
from s2l_ray.storage.folder import Storage
from s2l_ray.storage.retry import DamagedFile, StorageError, StorageFullError


def own_errors() -> list[type[BaseException]]:
    found = []
    for module in pkgutil.walk_packages(s2l_ray.__path__, "s2l_ray."):
        held = vars(importlib.import_module(module.name)).values()
        found += [c for c in held if isinstance(c, type) and issubclass(c, BaseException)]
    return sorted({c for c in found if _is_ours(c.__module__)}, key=lambda c: c.__name__)


def _is_ours(module: str) -> bool:
    """The sandbox's server has the standard library alone, and its errors never leave it; what tests raise to end a
    worker is no error of the package."""
    inside = ("s2l_ray.evaluation.sandbox.lock", "s2l_ray.evaluation.sandbox.prepare")
    return module.startswith("s2l_ray") and not module.startswith("s2l_ray.testing") and module not in inside


def test_every_error_class_has_the_root_and_crosses_processes():
    classes = own_errors()
    assert len(classes) > 25
    for one in classes:
        assert issubclass(one, S2LError), one
        if one in (S2LError, UserError, DataError, EnvironmentFault, InternalError):
            continue
        error = one("said")
        errors.mark_started(error)
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), errors.exit_code(again)) == (one, "said", 1)


# --- exit codes -----------------------------------------------------------------------------------------------------


def called(monkeypatch: pytest.MonkeyPatch, raises: BaseException | Any) -> int:
    def call(_: Any) -> int:
        if callable(raises):
            raises()
        raise raises

    monkeypatch.setattr(cli, "parse", lambda argv: SimpleNamespace(call=call))
    return cli.main(["run"])


@pytest.fixture
def runner_in(tmp_path):
    config = load_config("quickstart", [f"run_dir={tmp_path}"])
    return lambda: open_runner(Run(config, Storage.open(tmp_path)), Progress(interactive=False))


@pytest.mark.parametrize("error", [UserError("no"), DataError("no"), StorageError("no"), StorageFullError("no")])
def test_an_error_of_ours_is_a_refusal_until_a_stage_has_begun(monkeypatch, runner_in, error):
    def fails(_: object) -> StageResult:
        raise error

    def refused() -> None:
        with runner_in():
            raise type(error)("before any stage")

    def refused_by_the_stage() -> None:
        with runner_in() as runner:
            begun = "nothing may be built"
            runner.ensure(StageSpec("corpus", {}, {}, lambda _: pytest.fail(begun), prepare=lambda: fails(runner)))

    def failed() -> None:
        with runner_in() as runner:
            runner.ensure(StageSpec("corpus", {}, {}, fails))

    assert called(monkeypatch, refused) == 2
    assert called(monkeypatch, refused_by_the_stage) == 2
    assert called(monkeypatch, failed) == 1


def test_between_two_stages_it_is_a_failure_too_and_so_is_what_is_raised_in_its_place(monkeypatch, runner_in):
    def between(seed: int = 0) -> None:
        with runner_in() as runner:
            result = StageResult("f", {}, Artifact())
            runner.ensure(StageSpec("corpus", {"seed": seed}, {}, lambda storage: result))
            raise UserError("the next stage's settings")

    def wrapped() -> None:
        try:
            between(seed=1)
        except UserError as error:
            raise EnvironmentFault("the cluster is gone") from error

    def skipped() -> None:
        with runner_in() as runner:
            runner.ensure(StageSpec("corpus", {"seed": 0}, {}, lambda storage: pytest.fail("it is there")))
            raise UserError("nothing was started")

    assert called(monkeypatch, between) == 1
    assert called(monkeypatch, wrapped) == 1
    assert called(monkeypatch, skipped) == 2


@pytest.mark.parametrize("error", [KeyError("k"), ValueError("v"), RecursionError("r"), InternalError("i")])
def test_what_is_no_refusal_ends_with_1(monkeypatch, error):
    assert called(monkeypatch, error) == 1


# --- messages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyError("input_ids"), ["KeyError: 'input_ids'", "report it", "S2L_TRACEBACK=1"]),
        (ValueError(), ["ValueError", "report it"]),
        (TypeError("first\nsecond"), ["TypeError: first. "]),
        (PermissionError(13, "Permission denied", "/x"), ["PermissionError", "'/x'", "The system refuses it"]),
        (MemoryError(), ["MemoryError", "does not have enough memory"]),
        (UserError(), ["UserError"]),
    ],
)
def test_foreign_errors_are_one_line_with_their_type(monkeypatch, capsys, error, words):
    called(monkeypatch, error)
    said = capsys.readouterr().err
    assert [w for w in words if w not in said] == [], said
    assert said.count("\n") == 1


def test_an_error_whose_text_cannot_be_made_is_still_said(monkeypatch, capsys):
    class Nasty(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    assert called(monkeypatch, Nasty()) == 1
    assert "s2l: Nasty: Nasty." in capsys.readouterr().err


def test_an_error_from_a_ray_task_is_said_without_rays_traceback():
    wrapped = ray.exceptions.RayTaskError("f", "Traceback …\n  File …", KeyError("k")).as_instanceof_cause()
    assert errors.describe(wrapped).startswith("KeyError: 'k'.")


@pytest.mark.parametrize("text", ["x" * 10**6, "\n" * 5000, "\x1b[31m" * 1000, "\ud800" * 3000, "é" * 10**5])
def test_messages_are_cut_and_hold_no_control_characters(monkeypatch, text):
    monkeypatch.delenv("S2L_TRACEBACK", raising=False)
    for error in (UserError(f"begin {text} end"), StorageError(f"begin {text} end")):
        said = str(error)
        assert len(said) <= MAX_MESSAGE
        assert said.startswith("begin ")
        assert said.endswith(" end")
        assert "\x1b" not in said
        said.encode()
    monkeypatch.setenv("S2L_TRACEBACK", "1")
    assert str(UserError(text)) == text


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


LARGE: dict[str, Any] = {
    "text": "x" * 10**7,
    "list": list(range(10**6)),
    "text in a mapping": {"a": "b" * 10**7},
    "deep": nested(100_000),
    "number": 10**100_000,
    "texts": [["y" * 10**6] * 10] * 10,
    "mapping": {f"key {i}": i for i in range(10**5)},
}


@pytest.mark.parametrize("name", LARGE)
def test_a_value_is_shown_in_bounded_room(name):
    tracemalloc.start()
    said = errors.shown(LARGE[name])
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()
    assert len(said) <= errors.MAX_VALUE


def test_shown_values_look_like_pythons():
    for value in (1, "a", [1, "b"], {"a": [1, None]}, (), {}, 1.5, None, {1}, b"x", True):
        assert errors.shown(value) == repr(value) or value == ()


def test_of_many_faults_the_first_are_listed_and_the_rest_counted():
    said = errors.listed([f"fault {i}" for i in range(100)])
    assert said[0] == "fault 0"
    assert said[-1] == "… and 88 more"


# --- retries --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("v"), TypeError("t"), KeyError("k"), IndexError(), ZeroDivisionError(),
                                   ImportError(), UserError("u"), DamagedFile("d"), StorageFullError("f")])  # fmt: skip
def test_what_cannot_end_better_is_final(error):
    assert is_final(error)


@pytest.mark.parametrize("error", [ConnectionResetError(), TimeoutError(), OSError("x"), EOFError(), StorageError("s"),
                                   RuntimeError("gloo"), MemoryError(), ray.exceptions.ActorDiedError(),
                                   ray.exceptions.ActorHandleNotFoundError("gone"),
                                   ValueError("Default process group has not been initialized")])  # fmt: skip
def test_what_may_pass_is_not(error):
    assert not is_final(error)


def test_what_others_say_when_a_worker_is_lost_does_not_end_a_training_unless_it_is_ours():
    lost = WorkerHealthCheckFailedError("A worker health check failed.", ray.exceptions.ActorDiedError())
    plain, ours = TypeError("'NoneType' object is not callable"), UserError("ours")
    assert final_error(WorkerGroupError("…", {0: plain, 1: lost})) is None
    assert final_error(WorkerGroupError("…", {0: plain})) is plain
    assert final_error(WorkerGroupError("…", {0: plain, 1: ours, 2: lost})) is ours
