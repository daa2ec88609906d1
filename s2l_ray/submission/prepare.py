"""Turn a command and its configuration into a job for a Ray cluster, refusing what cannot work before sending it."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import shlex
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import s2l_ray
from s2l_ray.config import S2LConfig, list_recipes, load_config, to_yaml
from s2l_ray.errors import UserError
from s2l_ray.storage.filesystems import is_uri, scheme_of
from s2l_ray.submission.working_dir import Selected, select_files
from s2l_ray.text.redact import holds_credentials

_EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")


class SubmitError(UserError):
    """Error for a job that was not submitted; the message gives the reason and the remedy."""


@dataclass
class Submission:
    """A job that is ready to be submitted."""

    entrypoint: str
    runtime_env: dict[str, Any]
    name: str
    warnings: list[str] = field(default_factory=list)


def prepare(options: argparse.Namespace, parsed: argparse.Namespace, folder: Path) -> Submission:
    """Check and resolve the command, and assemble what will be sent.

    Args:
        options: options of `s2l submit`; `options.rest` holds those of the submitted command.
        parsed: the submitted command, parsed.
        folder: an empty folder for the files to send.

    Raises:
        ConfigError, SubmitError: the command cannot work; nothing has left this machine.
    """
    what, overrides, rest = options.what, options.overrides, options.rest
    if options.include and not options.working_dir:
        raise SubmitError(
            "--include adds to what --working-dir sends, and without --working-dir no files are sent; add "
            "--working-dir, or leave --include out"
        )
    _refuse_credentials("the command", holds_credentials(what))
    environment: dict[str, Any] = {"excludes": ["**/__pycache__/"]}
    if hasattr(parsed, "config") and (options.command == "run" or not _is_run_folder(what)):
        config = load_config(what, parsed.overrides)
        working_dir = Path(options.working_dir).resolve() if options.working_dir else None
        warnings = check_config(config, working_dir)
        name = config.name
        if working_dir is None:
            working_dir = folder / "working_dir"
            working_dir.mkdir()
            (working_dir / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
            what, overrides, rest = "config.yaml", [], [r for r in rest if r not in parsed.overrides]
        else:
            if what not in list_recipes():
                what = _inside(what, working_dir)
            selected = select_files(working_dir, options.include, always=[what])
            _check_inputs_are_sent(config, working_dir, selected)
            warnings += selected.describe()
            working_dir = folder / "working_dir"
            working_dir.mkdir()
            selected.copy_to(working_dir)
        environment["working_dir"] = str(working_dir)
    else:
        _refuse_credentials("the command", any(holds_credentials(o) for o in overrides))
        warnings = _check_place("the run", what, None, made_here=True)
        name = what.partition("?")[0].rstrip("/").rpartition("/")[2]
    environment |= _package(options.package, folder)
    if options.extras:
        environment["pip"] = extra_requirements(options.extras.split(","))
    if options.env:
        environment["env_vars"] = _environment(options.env)
    entrypoint = shlex.join(["python", "-m", "s2l_ray.cli", options.command, what, *overrides, *rest])
    return Submission(entrypoint, environment, name, warnings)


def _check_inputs_are_sent(config: S2LConfig, working_dir: Path, selected: Selected) -> None:
    """Raise SubmitError if the job would read files in the folder that are not sent."""
    for name, pattern in _inputs(config):
        if is_uri(pattern) or pattern.startswith(("/", "~")):
            continue
        for found in sorted(working_dir.glob(pattern)):
            files = [found] if found.is_file() else [p for p in found.rglob("*") if p.is_file()]
            missing = [p for p in files if p.relative_to(working_dir).as_posix() not in selected.files]
            if missing:
                shown = missing[0].relative_to(working_dir).as_posix()
                why = "; ".join(selected.describe()[:-1])[:600]
                raise SubmitError(
                    f"{name}={pattern}: --working-dir would not send {len(missing)} of these files, among them {shown} "
                    f"({why}). Add --include {shlex.quote(pattern)} if the job may have them"
                )


def _is_run_folder(what: str) -> bool:
    return what not in list_recipes() and (scheme_of(what) is not None or Path(what).is_dir())


def _inside(what: str, working_dir: Path) -> str:
    config = Path(what).resolve()
    if not config.is_relative_to(working_dir):
        raise SubmitError(
            f"{what} is not inside --working-dir {working_dir}, so the job would not find it; put it there, or leave "
            "--working-dir out to send only the configuration"
        )
    return config.relative_to(working_dir).as_posix()


def check_config(config: S2LConfig, working_dir: Path | None) -> list[str]:
    """Return warnings about settings that may not work on other machines.

    Raises:
        SubmitError: a setting cannot work on other machines.
    """
    _refuse_credentials("the configuration", config.stored() != config.model_dump(mode="json"))
    if config.resources.ray_address is not None:
        raise SubmitError(
            f"resources.ray_address={config.resources.ray_address} would make the job use another cluster than the one "
            "it is submitted to; remove the setting, or add resources.ray_address=null"
        )
    warnings = []
    if config.run_dir is None:
        _refuse_relative(
            "run_dir (not set)", config.run_uri, "run_dir=s3://bucket/runs/… or a folder that all nodes mount"
        )
    warnings += _check_place("run_dir", config.run_uri, None, made_here=True)
    for name, path in _inputs(config):
        warnings += _check_place(name, path, working_dir, made_here=False)
    if warnings:
        warnings.append("all nodes must see the same files under these local paths; s3://… or gs://… is simplest")
    return warnings


def _inputs(config: S2LConfig) -> Iterator[tuple[str, str]]:
    """Yield (field, path) for everything that the job reads and that may be on this machine."""
    for path in config.corpus.paths:
        yield "corpus.paths", path
    for name, paths in config.heldout.files.items():
        for path in paths:
            yield f"heldout.files.{name}", path
    for path in config.selection.query.paths:
        yield "selection.query.paths", path
    if config.corpus.huggingface and _is_local(config.corpus.huggingface.name):
        yield "corpus.huggingface.name", config.corpus.huggingface.name
    for model in (config.proxy, config.target):
        for field_name in ("model", "tokenizer"):
            value = getattr(model, field_name, None)
            if value and _is_local(value):
                yield f"{model.section}.{field_name}", value  # type: ignore[union-attr]
    if config.target and config.target.deepspeed_config:
        yield "target.deepspeed_config", config.target.deepspeed_config


def _is_local(name: str) -> bool:
    """Whether the name is that of a local folder, not of a repository on the Hugging Face hub."""
    return name.startswith(("/", "./", "../", "~", "file:")) or Path(name).exists()


def _check_place(name: str, path: str, working_dir: Path | None, made_here: bool) -> list[str]:
    if scheme_of(path) not in (None, "file"):
        return []
    if scheme_of(path) == "file" or path.startswith("/"):
        return [f"{name}={path} is a local path"]
    if working_dir is not None and not made_here:
        base = working_dir / re.split(r"[*?\[]", path)[0]
        if (base if base.exists() else base.parent).resolve().is_relative_to(working_dir) and base.parent.exists():
            return []
    cure = f"{name}=s3://bucket/… or a folder that all nodes mount"
    _refuse_relative(name, path, cure if made_here else f"{cure}; or --working-dir with the folder that holds it")
    return []


def _refuse_relative(name: str, path: str, cure: str) -> None:
    raise SubmitError(
        f"{name}={path} is relative to a local folder. On the cluster, the job runs in a temporary folder on one node: "
        f"its inputs would be missing there, and its outputs would be lost. Set {cure}"
    )


def _refuse_credentials(where: str, found: bool) -> None:
    if found:
        raise SubmitError(
            f"{where} holds credentials, which anyone with access to Ray's dashboard could read. Leave them out and "
            "give the nodes a role or environment variables instead or, if there is no other way, use --env NAME"
        )


def _package(wanted: str, folder: Path) -> dict[str, Any]:
    """Return `py_modules` with the folder s2l_ray.

    Only that folder is taken from a wheel: Ray would install a wheel with all its dependencies.
    """
    if wanted == "none":
        return {}
    place = Path(s2l_ray.__file__).parent if wanted == "installed" else Path(wanted)
    if place.suffix == ".whl" and place.is_file():
        with zipfile.ZipFile(place) as wheel:
            wheel.extractall(folder / "wheel", [n for n in wheel.namelist() if n.startswith("s2l_ray/")])
        place = folder / "wheel"
    place = place if place.name == "s2l_ray" and (place / "cli" / "__init__.py").exists() else place / "s2l_ray"
    if not (place / "cli" / "__init__.py").exists():
        raise SubmitError(
            f"--package {wanted} does not contain the package s2l_ray; give a clone, the folder s2l_ray, or a wheel, "
            "or leave the option out to send the installed package"
        )
    package = folder / "package/s2l_ray"
    select_files(place, ignore=False).copy_to(package)  # a clone may hold more than the package
    return {"py_modules": [str(package)]}


def extra_requirements(names: Sequence[str]) -> list[str]:
    """Return the pip requirements of these extras of the installed s2l_ray.

    Raises:
        SubmitError: an extra is unknown, or s2l_ray is not installed.
    """
    from packaging.requirements import Requirement

    try:
        metadata = importlib.metadata.metadata("s2l_ray")
    except importlib.metadata.PackageNotFoundError:
        raise SubmitError(
            "--extras looks the extras up in the installed s2l_ray, which is not installed here; run pip install -e ."
        ) from None
    known = metadata.get_all("Provides-Extra") or []
    for name in names:
        if name not in known:
            raise SubmitError(f"--extras {name}: s2l_ray has no such extra; choose from {', '.join(known)}")
    if {"cpu", "gpu"} <= set(names):
        raise SubmitError(
            "--extras cpu and gpu both provide the module faiss, so the nodes would get a mix of the two; give only one"
        )
    found = []
    for line in metadata.get_all("Requires-Dist") or []:
        extra = _EXTRA.search(line)
        if extra and extra.group(1) in names:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra.group(1)}):
                requirement.marker = None
                found.append(str(requirement))
    return found


def _environment(names: Sequence[str]) -> dict[str, str]:
    values = {}
    for name in names:
        if "=" in name:
            raise SubmitError(
                f"--env {name.partition('=')[0]}=… would put a value, perhaps a secret, on the command line; give only "
                "the name and set the variable in this shell's environment"
            )
        if name not in os.environ:
            raise SubmitError(f"--env {name}: this environment has no such variable; export it first")
        values[name] = os.environ[name]
    return values
